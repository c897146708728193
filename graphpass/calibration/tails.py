"""Currents larger than any that was recorded.

Of n + 1 currents in random order, the last is the largest with probability 1 / (n + 1): so n
more of them hold about one above the largest of the n recorded. A tail is taken to fall
exponentially. Then what exceeds a level exceeds it by the same on average wherever the level
lies, and the mean excess of the largest recorded over the next one below estimates it
(Pickands, Annals of Statistics 3, 1975). With thousands of currents a channel, one more
hardly counts; with 32 inputs to a layer without positions, clipping what is unseen was all
that was left of the error at T = 64.
"""

from __future__ import annotations

import numpy as np

from graphpass.calibration.histogram import BINS, Histogram
from graphpass.calibration.moments import Vector

_LARGEST = 3  # so many tell how a tail falls
_POINTS = 8  # that stand for it
_EXCESS = -np.log1p(-(np.arange(_POINTS) + 0.5) / _POINTS)  # quantiles, in mean excesses

#: Counts of a histogram that each point of `unseen` stands for: all together one current.
MASS = 1.0 / _POINTS


def unseen(histogram: Histogram) -> Vector:
    """What one current above the bound may be, as shares of the bound, ``[C, points]``.

    Args:
        histogram: its bounds are the largest currents that were recorded.
    """
    return 1.0 + mean_excess(histogram)[:, None] * _EXCESS


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
