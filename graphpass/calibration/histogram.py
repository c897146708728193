"""Distributions of currents, per channel: streaming, mergeable, the same bits every time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 1024


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of positive currents in equal bins from 0 to a bound per channel.

    Attributes:
        bound: float64 ``[C]``: upper end of the last bin; larger values are counted there.
        counts: int64 ``[C, BINS]``.
    """

    bound: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, bound: NDArray[np.float32]) -> Histogram:
        """Nothing seen yet."""
        return cls(bound.astype(np.float64), np.zeros((bound.size, BINS), np.int64))

    def add(self, currents: NDArray[np.float32], channel_axis: int | None) -> Histogram:
        """The histogram with a batch of currents added; zero and below is left out.

        Args:
            currents: any shape; C on `channel_axis`, or one channel when that is None.
            channel_axis: axis of the channels.
        """
        channels = self.bound.size
        axis = 0 if channel_axis is None else channel_axis
        rows = np.moveaxis(currents, axis, 0).reshape(channels, -1)
        # Behind a bound near zero this overflows: rightly to the last bin where a row is
        # positive, and to no number only where it is not, and left out.
        with np.errstate(over="ignore", invalid="ignore"):
            place = rows * (BINS / self.bound)[:, None].astype(np.float32)
            place = np.minimum(place, np.float32(BINS - 1)).astype(np.int32)
        place += (np.arange(channels, dtype=np.int32) * BINS)[:, None]
        # Indices, for a mask takes longer; and one array less as large as the counts.
        positive = place.ravel()[np.flatnonzero(rows > 0)]
        found = np.bincount(positive, minlength=channels * BINS).reshape(channels, BINS)
        found += self.counts
        return Histogram(self.bound, found)

    def merge(self, other: Histogram) -> Histogram:
        """What both have seen. Counts are whole numbers, so the order does not matter."""
        return Histogram(self.bound, self.counts + other.counts)
