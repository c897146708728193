"""The parallel neuron in the paper's optimised form (section 4.3).

All entries of a row of the conversion matrix are equal, so one sum over time charges
every step. The first firing step is then known in closed form, T - n + 1 with
n = Clip(Floor(u), 0, T), and a neuron that has fired once fires at every later step.
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
    """Turn a DA-QCFS into a `graphpass::SortedSpikes`, or its variant for static currents.

    Args:
        model: stage 3.
        node: the DA-QCFS node, changed in place.
        neuron: its record.
        source: time type of its input current.
    """
    name, shape, slots = neuron.name, list(node.inputs[0].shape), folding.slots(model)
    current, threshold, shift, amplitude, levels = node.inputs
    amplitude = folding.post_threshold(model, neuron, amplitude, slots)
    # Counted from the first slot that can fire, slots - levels + 1.
    steps = np.arange(1, slots + 1, dtype=np.float32).reshape(slots, 1) - (slots - neuron.levels)
    steps = steps.astype(np.float32)
    first = [
        current,
        threshold,
        shift,
        amplitude,
        levels,
        editing.constant(model, f"{name}/steps", steps),
    ]
    back = [
        folding.split(model, name, shape, source, 1),
        *folding.unfolded(model, name, shape, source),
    ]
    if source.varies:
        charge = np.full((1, slots), neuron.levels / slots, np.float32)
        node.op = dialect.with_ties(dialect.SORTED_SPIKES, neuron.ties)
        node.inputs = [
            *first,
            editing.constant(model, f"{name}/sum", charge),
            folding.split(model, name, shape, source, slots),
            *back,
        ]
    else:
        node.op = dialect.with_ties(dialect.SORTED_SPIKES_STATIC, neuron.ties)
        node.inputs = [*first, *back]
