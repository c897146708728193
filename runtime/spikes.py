"""Reading spikes: from a neuron's tensor to the number of spikes per sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.feeds import Array
from graphpass_runtime.neuron import Carrier, Neuron


def count_spikes(neuron: Neuron, spikes: Array, steps: int) -> NDArray[np.int32]:
    """Sum a neuron's spikes over time.

    Args:
        neuron: the record of the layer.
        spikes: its tensor `neuron.spikes`. A train is bool or 0/1 and has T*N rows on
            the batch axis, time outermost (row t*N + n); a count has N rows, and so
            have serial spikes, which `Stepper` has summed already.
        steps: number of time-steps T.

    Returns:
        int32 counts, shaped like `spikes` but with N rows on the batch axis.

    Raises:
        ValueError: the tensor does not have the axes, or channels, that the record names.
    """
    axis = neuron.batch_axis
    axes = (axis, 0 if neuron.channel_axis is None else neuron.channel_axis)
    if not all(0 <= each < spikes.ndim for each in axes):
        raise ValueError("it lacks an axis")
    if neuron.channels not in (1, spikes.shape[axes[1]]):
        raise ValueError("it has other channels")
    if neuron.carrier is not Carrier.TRAIN:
        # Counts may travel as floats; they are whole numbers all the same.
        whole: Array = np.rint(spikes) if spikes.dtype.kind == "f" else spikes
        with np.errstate(invalid="ignore"):  # what is no number is a count that nobody has
            return whole.astype(np.int32)
    rows = spikes.shape[axis]
    if steps < 1 or rows % steps:
        raise ValueError(f"its {rows} rows are no multiple of {steps} time-steps")
    unfolded = (*spikes.shape[:axis], steps, rows // steps, *spikes.shape[axis + 1 :])
    counts: NDArray[np.int32] = spikes.reshape(unfolded).sum(axis=axis, dtype=np.int32)
    return counts


def sum_per_channel(neuron: Neuron, counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Total spikes per channel: float64 ``[C]``, or ``[1]`` without a channel axis."""
    channel = neuron.channel_axis
    others = tuple(axis for axis in range(counts.ndim) if axis != channel)
    return np.atleast_1d(counts.sum(axis=others, dtype=np.float64))
