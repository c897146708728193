"""The classical neuron: integrate and fire, one time-step after the other, soft reset.

v += z(t) + shift; s = H(v - theta); v -= theta s; output T amplitude s, with v(0) =
theta/2. The state is v - theta/2, which starts at zero. This is the serial network that
parallel spiking calculation is measured against. It has the same thresholds, but its
counts differ: which of them a neuron reaches depends on when its input spikes come.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import parameters
from graphpass_runtime.neuron import Neuron


def build(
    model: Model, node: gs.Node, neuron: Neuron, before: gs.Variable, after: gs.Variable
) -> None:
    """Turn a DA-QCFS into a `graphpass::SerialIF`.

    Args:
        model: stage 3.
        node: the DA-QCFS node, changed in place.
        neuron: its record.
        before: the neuron's state before the step.
        after: its state after it.
    """
    current, threshold, shift, amplitude, levels = parameters.inputs(model, neuron, node.inputs[0])
    if not np.any(neuron.shift):  # a scalar zero is one addition that ONNX Runtime drops
        shift = editing.constant(model, f"{neuron.name}/no_shift", np.zeros((), np.float32))
    node.op = dialect.SERIAL_IF
    node.inputs = [current, before, threshold, shift, amplitude, levels]
    node.outputs = [node.outputs[0], after, gs.Variable(neuron.spikes)]
