"""The parallel neuron as written in the paper: explicit trains, charged by a MatMul.

Lambda_PC (eq. 8) has 1/(T-x+1) everywhere in row x. The condition for step x to fire,
(Lambda_PC I)_x + b_x >= theta, is multiplied by (T-x+1)/theta here, which makes the
matrix all ones, the charge u = (sum_t I_t + psi + T psi_DA)/theta at every step, and
the condition u >= T-x+1: silence first, spikes last, and no rounding in what u is
compared with.

A neuron with fewer levels than the file has slots fires in its last `levels` slots: its
charge is scaled by levels / slots, no charge reaches the condition of earlier slots, and a
spike carries slots / levels as much.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import folding
from graphpass.timeflow import TimeType
from graphpass_runtime.neuron import Neuron


def build(model: Model, node: gs.Node, neuron: Neuron, source: TimeType) -> None:
    """Turn a neuron into a `graphpass::ParallelSpikes`, or its variant for static currents.

    Args:
        model: stage 3.
        node: the DA-QCFS node, changed in place.
        neuron: its record.
        source: time type of its input current.
    """
    name, shape, slots = neuron.name, list(node.inputs[0].shape), folding.slots(model)
    current, threshold, shift, amplitude, levels = node.inputs
    amplitude = folding.post_threshold(model, neuron, amplitude, slots)
    first = [current, threshold, shift, amplitude, levels]
    steps = np.arange(slots, 0, -1, dtype=np.float32).reshape(slots, 1)
    steps[steps > neuron.levels] = np.inf  # no charge reaches that
    firing = editing.constant(model, f"{name}/steps", steps)
    if source.varies:
        charge = np.float32(neuron.levels / slots)  # u = levels * mean current / theta + ...
        conversion = np.full((slots, slots), charge, np.float32)
        node.op = dialect.with_ties(dialect.PARALLEL_SPIKES, neuron.ties)
        node.inputs = [
            *first,
            editing.constant(model, f"{name}/conversion_matrix", conversion),
            firing,
            folding.split(model, name, shape, source, slots),
        ]
    else:
        node.op = dialect.with_ties(dialect.PARALLEL_SPIKES_STATIC, neuron.ties)
        node.inputs = [
            *first,
            firing,
            folding.split(model, name, shape, source, 1),
            *folding.unfolded(model, name, shape, source),
        ]
