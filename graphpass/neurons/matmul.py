"""The parallel neuron as written in the paper: explicit trains, charged by a MatMul.

Lambda_PC (eq. 8) has 1/(T-x+1) everywhere in row x. The condition for step x to fire,
(Lambda_PC I)_x + b_x >= theta, is multiplied by (T-x+1)/theta here, which makes the
matrix all ones, the charge u = (sum_t I_t + psi + T psi_DA)/theta at every step, and
the condition u >= T-x+1: silence first, spikes last, and no rounding in what u is
compared with.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import folding
from graphpass.timeflow import TimeType
from graphpass_runtime.metadata import Neuron


def build(model: Model, node: gs.Node, neuron: Neuron, source: TimeType) -> None:
    """Turn a neuron into a `graphpass::ParallelSpikes`, or its variant for static currents.

    Args:
        model: stage 3.
        node: the DA-QCFS node, changed in place.
        neuron: its record.
        source: time type of its input current.
    """
    levels, name, shape = neuron.levels, neuron.name, list(node.inputs[0].shape)
    first = list(node.inputs)  # x, threshold, shift, amplitude, levels
    steps = np.arange(levels, 0, -1, dtype=np.float32).reshape(levels, 1)
    firing = editing.constant(model, f"{name}/steps", steps)
    if source.varies:
        conversion = np.ones((levels, levels), np.float32)
        node.op = dialect.with_ties(dialect.PARALLEL_SPIKES, neuron.ties)
        node.inputs = [
            *first,
            editing.constant(model, f"{name}/conversion_matrix", conversion),
            firing,
            folding.split(model, name, shape, source, levels),
        ]
    else:
        node.op = dialect.with_ties(dialect.PARALLEL_SPIKES_STATIC, neuron.ties)
        node.inputs = [
            *first,
            firing,
            folding.split(model, name, shape, source, 1),
            *folding.unfolded(model, name, shape, source),
        ]
