"""Distributions of currents, per channel: streaming, mergeable, the same bits every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 1024
#: What the currents of each bin are taken to be, as shares of the bound, float64 ``[BINS]``.
MIDDLES = (np.arange(BINS) + 0.5) / BINS


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of positive currents in equal bins from 0 to a bound per channel.

    Attributes:
        bound: float64 ``[C]``: upper end of the last bin; larger values are counted there.
        counts: int64 ``[C, BINS]``; float64 where they are expected ones.
    """

    bound: NDArray[np.float64]
    counts: NDArray[np.int64] | NDArray[np.float64]

    def merge(self, other: Histogram) -> Histogram:
        """What both have seen. Counts are whole numbers, so the order does not matter."""
        return Histogram(self.bound, self.counts + other.counts)


class Tally:
    """Counts currents, batch by batch."""

    def __init__(self, bound: NDArray[np.floating[Any]]) -> None:
        """Nothing seen yet; the bounds are those of `Histogram`."""
        self._bound = bound.astype(np.float64)
        # Narrow: reading them from memory takes most of the time.
        self._counts = np.zeros(bound.size * BINS, np.uint32)

    def add(self, currents: NDArray[np.float32], channel_axis: int | None) -> None:
        """Count a batch; zero and below is left out.

        Args:
            currents: any shape; C on `channel_axis`, or one channel when that is None.
            channel_axis: axis of the channels.
        """
        channels = self._bound.size
        axis = 0 if channel_axis is None else channel_axis
        rows = np.moveaxis(currents, axis, 0).reshape(channels, -1)
        # Behind a bound near zero this overflows: rightly to the last bin where a row is
        # positive, and to no number only where it is not, and left out.
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = rows * (BINS / self._bound)[:, None].astype(np.float32)
            place = np.minimum(scaled, np.float32(BINS - 1), out=scaled).astype(np.int32)
        place += (np.arange(channels, dtype=np.int32) * BINS)[:, None]
        # Indices, for a mask takes longer; and where they are, for the bins of a wide layer
        # outnumber the currents of a batch, and a bincount would write them all.
        np.add.at(self._counts, place.ravel()[np.flatnonzero(rows > 0)], np.uint32(1))

    def histogram(self) -> Histogram:
        """Of all that was added so far."""
        return Histogram(self._bound, self._counts.reshape(-1, BINS).astype(np.int64))
