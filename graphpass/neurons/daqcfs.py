"""Neurons without a time axis: DA-QCFS of stages 2 and 3.

n = Clip(Floor(T (x + shift) / theta + 1/2), 0, T) and y = amplitude n: eq. 9 of the
paper with T~ = T. The conversion matrix has rank one, so that all a parallel neuron
reads of its input is the sum over time, and this is the same network.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import parameters
from graphpass_runtime.neuron import Neuron


def build(model: Model, node: gs.Node, neuron: Neuron) -> None:
    """Turn an activation into a `graphpass::DAQCFS` with the neuron's parameters.

    Behind a scalar function f the current is sign * f - baseline.
    """
    if editing.is_dialect(node, dialect.CLIP_ABOVE):
        node.inputs[0] = _above_baseline(model, node.inputs[0], neuron)
    node.op, node.domain = dialect.with_ties(dialect.DAQCFS, neuron.ties), dialect.DOMAIN
    node.attrs.clear()
    node.inputs = parameters.inputs(model, neuron, node.inputs[0])
    node.outputs = parameters.outputs(neuron, node.outputs[0])


def _above_baseline(model: Model, value: gs.Tensor, neuron: Neuron) -> gs.Tensor:
    assert neuron.baseline is not None, "it stands behind a scalar function"
    rank = len(value.shape)
    steps = [("Add", parameters.beside(-neuron.baseline, rank, neuron.channel_axis))]
    if neuron.sign < 0:
        steps.insert(0, ("Mul", np.array(-1, np.float32)))
    for op, array in steps:
        name = f"{neuron.name}/{'negative' if op == 'Mul' else 'above_baseline'}"
        result = gs.Variable(editing.fresh_name(model, name), value.dtype, value.shape)
        constant = editing.constant(model, f"{name}/constant", array)
        model.graph.nodes.append(
            gs.Node(op, result.name, inputs=[value, constant], outputs=[result])
        )
        value = result
    return value
