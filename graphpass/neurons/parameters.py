"""How a neuron's per-channel parameters stand beside the tensor they apply to."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.admission import LARGEST
from graphpass.model import Model
from graphpass_runtime.neuron import Neuron

# A channel that never fired while thresholds were recorded has threshold 0, which the
# neuron divides by. This fraction of the layer's largest threshold is far below any
# step of it, so such a channel stays silent in effect.
_SMALLEST = 2.0**-20

#: The smallest threshold of a neuron. T divided by it must stay far from the end of float32,
#: and currents of this size are nothing but what arithmetic leaves over.
SMALLEST_THRESHOLD = 2.0**-100


def beside(array: NDArray[Any], rank: int, channel_axis: int | None) -> NDArray[Any]:
    """`[C]` in the shape that broadcasts against a tensor: `[C, 1, ...]`, or a scalar."""
    if channel_axis is None or array.size == 1:
        return array.reshape(())
    return array.reshape(-1, *[1] * (rank - 1 - channel_axis))


def guarded(threshold: NDArray[np.float32]) -> NDArray[np.float32]:
    """Thresholds with dead channels lifted above zero."""
    largest = float(threshold.max(initial=0.0))
    if largest * _SMALLEST < SMALLEST_THRESHOLD:  # the whole layer is dead
        largest = 1.0
    return np.maximum(threshold, np.float32(largest * _SMALLEST)).astype(np.float32)


def unusable(threshold: NDArray[np.float32]) -> str | None:
    """What is wrong with thresholds that a neuron cannot have."""
    if not (threshold >= SMALLEST_THRESHOLD).all():
        return "less than 2^-100"
    return "more than 2^112" if (threshold > LARGEST).any() else None


def inputs(model: Model, neuron: Neuron, current: gs.Tensor) -> list[gs.Tensor]:
    """x, threshold, shift, amplitude and levels: the inputs every neuron function starts with."""
    rank = len(current.shape)
    arrays = {
        "threshold": neuron.threshold,
        "shift": neuron.shift,
        "amplitude": neuron.amplitude,
        "levels": np.array(neuron.levels, np.float32),
    }
    shaped = {
        f"{neuron.name}/{key}": beside(array, rank, neuron.channel_axis)
        for key, array in arrays.items()
    }
    return [current, *editing.constants(model, shaped)]


def outputs(neuron: Neuron, output: gs.Tensor) -> list[gs.Tensor]:
    """y, membrane potential and spikes: the outputs every neuron function has."""
    return [output, gs.Variable(neuron.potential), gs.Variable(neuron.spikes)]
