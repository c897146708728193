"""The parallel neuron behind a scalar function: free thresholds, one for each step.

A neuron that fires n = Clip(Floor(u(f(z))), 0, T) times, f non-decreasing, fires at least k
times when its mean current z reaches the level crossing t_k, the smallest z with
u(f(z)) >= k. So step x compares z with t_(T-x+1), and no f is computed at run time. Silence
comes first and spikes last, as t_k does not fall with k.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing
from graphpass.curves import Array, Curve, level_crossings
from graphpass.model import Model
from graphpass.neurons import folding
from graphpass.regions import Region
from graphpass.timeflow import Shape, TimeType
from graphpass_runtime.neuron import Neuron


def build(
    model: Model, node: gs.Node, neuron: Neuron, source: TimeType, region: Region, rows: int
) -> None:
    """Turn a DA-QCFS into a `graphpass::StaircaseSpikes`, or its variant for static currents.

    Args:
        model: stage 3.
        node: the DA-QCFS node, changed in place.
        neuron: its record.
        source: time type of its current.
        region: from the current to what DA-QCFS reads.
        rows: of the matrix that charges: as many equal ones as there are time-steps, as in
            the paper, or one.
    """
    current, name, slots = region.source, neuron.name, folding.slots(model)
    shape = list(current.shape)
    assert source.batch_axis is not None, "time flow refuses neurons without a batch"
    crossings = _crossings(model, neuron, region)
    never = np.full((slots - neuron.levels, crossings.shape[1]), np.inf, np.float32)
    crossings = _along(np.concatenate([crossings, never]), shape, source.batch_axis, neuron)
    amplitude = folding.post_threshold(model, neuron, node.inputs[3], slots)
    number = node.inputs[4]
    apart = folding.split(model, name, shape, source, rows if source.varies else 1)
    back = folding.unfolded(model, name, shape, source)
    node.inputs = [
        current,
        editing.constant(model, f"{name}/crossings", crossings),
        number,
        amplitude,
    ]
    if source.varies:
        node.op = dialect.STAIRCASE_SPIKES
        # Divided by the levels, this gives the mean.
        charging = np.full((rows, slots), neuron.levels / slots, np.float32)
        node.inputs += [
            editing.constant(model, f"{name}/charging", charging),
            folding.split(model, name, shape, source, slots),
        ]
    else:
        node.op = dialect.STAIRCASE_SPIKES_STATIC
    node.inputs += [apart, *back]


def _crossings(model: Model, neuron: Neuron, region: Region) -> Array:
    """Currents at which the count rises, ``[T, C]``, in the order of the counts."""
    curve = Curve.of(region, model.opset)
    # As the function DAQCFS computes it.
    gain = np.float32(neuron.levels) / neuron.threshold
    offset = neuron.shift * gain + np.float32(0.5)

    def potential(currents: Array) -> Array:
        found: Array = curve(currents) * gain + offset
        return found

    return level_crossings(potential, neuron.channels, neuron.levels)


def _along(crossings: Array, shape: Shape, batch_axis: int, neuron: Neuron) -> Array:
    """In the order of the steps, beside a tensor with time in front of the batch axis."""
    levels, channels = crossings.shape
    sizes = [1] * (len(shape) + 1)
    sizes[batch_axis] = levels
    in_steps = crossings[::-1]
    if (axis := neuron.channel_axis) is not None and channels > 1:
        sizes[axis if axis < batch_axis else axis + 1] = channels
        in_steps = in_steps.T if axis < batch_axis else in_steps
    return np.ascontiguousarray(in_steps).reshape(sizes)


def crossings_of(node: gs.Node, neuron: Neuron) -> Array:
    """Level crossings ``[T, C]`` of a node that `build` made, in ascending order.

    Raises:
        ValueError: there are not as many.
    """
    beside = np.asarray(editing.values(node.inputs[1]), np.float32)
    by_step = np.moveaxis(beside, neuron.batch_axis, 0)
    found = by_step.reshape(len(by_step), -1)[::-1][: neuron.levels]
    if found.shape[0] != neuron.levels or found.shape[1] not in (1, neuron.channels):
        raise ValueError(f"{found.shape} level crossings")
    return found


def potential(currents: Array, crossings: Array, channel_axis: int | None) -> Array:
    """Membrane potentials, in steps, that mean currents stand for.

    They are whole where a current lies on a level crossing, and in proportion between two.
    Beyond the first and the last one they follow the mean distance between crossings.

    Args:
        currents: any shape, C on `channel_axis`.
        crossings: level crossings ``[T, C]``, or ``[T, 1]``, in ascending order.
        channel_axis: axis of the channels, None for one value.
    """
    channels = crossings.shape[1]
    axis = 0 if channel_axis is None else channel_axis
    rows = np.moveaxis(currents, axis, 0)
    found = np.empty((channels, rows.size // channels), np.float32)
    for channel, row in enumerate(rows.reshape(channels, -1)):
        found[channel] = _interpolated(row.astype(np.float64), crossings[:, channel])
    return np.moveaxis(found.reshape(rows.shape), 0, axis)


def _interpolated(currents: NDArray[np.float64], crossings: Array) -> NDArray[np.float64]:
    ends = np.concatenate([[-np.inf], crossings.astype(np.float64), [np.inf]])
    counts = np.searchsorted(crossings, currents.astype(np.float32), side="right")
    below, above = currents - ends[counts], ends[counts + 1] - currents
    gaps = np.diff(crossings[np.isfinite(crossings)].astype(np.float64))
    typical = gaps[gaps > 0].mean() if np.any(gaps > 0) else 1.0
    with np.errstate(invalid="ignore"):
        between = below / (below + above)
    half = np.full_like(currents, 0.5)
    share = np.where(
        np.isfinite(below),
        np.where(np.isfinite(above), between, np.minimum(below / typical, half)),
        np.where(np.isfinite(above), 1.0 - np.minimum(above / typical, half), half),
    )
    potentials: NDArray[np.float64] = counts.astype(np.float64) + share
    return potentials
