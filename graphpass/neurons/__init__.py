"""The Neuron record and its builders: record -> ONNX subgraph, one builder a file."""

from graphpass_runtime.neuron import Carrier, Neuron, Ties

__all__ = ["Carrier", "Neuron", "Ties"]
