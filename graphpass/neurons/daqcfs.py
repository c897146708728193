"""Neurons without a time axis: DA-QCFS of stages 2 and 3.

n = Clip(Floor(T (x + shift) / theta + 1/2), 0, T) and y = amplitude n: eq. 9 of the
paper with T~ = T. The conversion matrix has rank one, so that all a parallel neuron
reads of its input is the sum over time, and this is the same network.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import dialect
from graphpass.model import Model
from graphpass.neurons import parameters
from graphpass_runtime.metadata import Neuron


def build(model: Model, node: gs.Node, neuron: Neuron) -> None:
    """Turn an activation into a `graphpass::DAQCFS` with the neuron's parameters."""
    node.op, node.domain = dialect.with_ties(dialect.DAQCFS, neuron.ties), dialect.DOMAIN
    node.attrs.clear()
    node.inputs = parameters.inputs(model, neuron, node.inputs[0])
    node.outputs = parameters.outputs(neuron, node.outputs[0])
