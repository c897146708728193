"""Currents larger than any that was recorded.

Of n + 1 currents in random order, the last is the largest with probability 1 / (n + 1): so n
more of them hold about one above the largest of the n recorded. A tail is taken to fall
exponentially. Then what exceeds a level exceeds it by the same on average wherever the level
lies, and the mean excess of the largest recorded over the next one below estimates it
(Pickands, Annals of Statistics 3, 1975). With thousands of currents a channel, one more
hardly counts; with 32 inputs to a layer without positions, clipping what is unseen was all
that was left of the error at T = 64. Of images a grid is looked at (`sampling`), but bounds
are the largest currents anywhere: then of the one more only a share belongs to the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphpass.calibration.histogram import BINS, Histogram
from graphpass.calibration.moments import Vector

_LARGEST = 3  # so many tell how a tail falls
_POINTS = 8  # that stand for it
_EXCESS = -np.log1p(-(np.arange(_POINTS) + 0.5) / _POINTS)  # quantiles, in mean excesses


@dataclass(frozen=True, eq=False)
class Tail:
    """Currents above the bound that may come.

    Attributes:
        values: shares of the bound, ``[C, points]``.
        mass: counts of the histogram that each point stands for.
    """

    values: Vector
    mass: float


def unseen(histogram: Histogram, fraction: float = 1.0) -> Tail:
    """What one current above the bound may be.

    Args:
        histogram: its bounds are the largest currents that were recorded.
        fraction: of the currents that the bounds are of, so many are in the histogram.
    """
    return Tail(1.0 + mean_excess(histogram)[:, None] * _EXCESS, fraction / _POINTS)


def mean_excess(histogram: Histogram) -> Vector:
    """How far the largest currents exceed the next one below, as shares of the bound, ``[C]``.

    Where too few are positive, the next ones are zeros.
    """
    at_least = np.cumsum(histogram.counts[:, ::-1], axis=1)

    def ranked(rank: int) -> Vector:
        place = BINS - 0.5 - (at_least < rank).sum(axis=1)
        return np.asarray(np.maximum(place, 0.0) / BINS)

    largest = np.mean([ranked(rank) for rank in range(1, _LARGEST + 1)], axis=0)
    return np.asarray(largest - ranked(_LARGEST + 1))
