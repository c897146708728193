"""Which layer lost the accuracy: the SNN against the ANN, neuron by neuron."""

from graphpass.diagnosis.report import Diagnosis, Layer

__all__ = ["Diagnosis", "Layer"]
