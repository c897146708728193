"""Thresholds and amplitudes in closed form, from the distribution of the current.

With y = max(z, 0) and n = Clip(Floor(T y / theta + 1/2), 0, T), the amplitude a that
makes E (y - a n)^2 least is E[y n] / E[n^2], and what is left is
E[y^2] - E[y n]^2 / E[n^2] (least squares). Thresholds are given as shares of the largest
current, the upper end of the histogram.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphpass.calibration import normal
from graphpass.calibration.histogram import BINS, Histogram
from graphpass.calibration.moments import Moments, Vector

#: What `percentile` cuts off is the rest, of the positive currents.
PERCENT = 99.9

# Candidates for theta as shares of the largest current. At one time-step the best
# threshold of a half-normal current is about a quarter of its maximum.
_SHARES = np.geomspace(0.04, 1.0, 96)


def squared_error(histogram: Histogram, levels: int) -> Vector:
    """Share of the largest current that leaves the least squared error, ``[C]``.

    A channel that never fired gets 1.
    """
    error = _left(histogram, levels)
    return np.where(histogram.counts.any(axis=1), _SHARES[error.argmin(axis=1)], 1.0)


def percentile(histogram: Histogram, percent: float) -> Vector:
    """Share of the largest current that so many percent of positive currents stay below."""
    below = np.cumsum(histogram.counts, axis=1)
    wanted = below[:, -1:] * (percent / 100.0)
    share = (1 + (below < wanted).sum(axis=1)) / BINS
    return np.where(below[:, -1] > 0, np.minimum(share, 1.0), 1.0)


def amplitude(histogram: Histogram, share: Vector, levels: int) -> Vector:
    """Least-squares amplitude for the threshold share * bound, ``[C]``.

    A channel that never fired gets theta/T.
    """
    values = (np.arange(BINS) + 0.5) / BINS
    counts = np.clip(np.floor(values * levels / share[:, None] + 0.5), 0, levels)
    product = (histogram.counts * values * counts).sum(axis=1) * histogram.bound
    square = (histogram.counts * counts**2).sum(axis=1)
    regular = share * histogram.bound / levels
    amplitudes: Vector = np.divide(product, square, out=regular, where=square > 0)
    return amplitudes


def _left(histogram: Histogram, levels: int) -> Vector:
    """Squared error that is left for every candidate, ``[C, candidates]``, up to a scale."""
    values = (np.arange(BINS) + 0.5) / BINS
    counts = np.clip(np.floor(values[:, None] * levels / _SHARES + 0.5), 0, levels)
    weights = histogram.counts.astype(np.float64)
    product = weights @ (values[:, None] * counts)
    square = weights @ counts**2
    gained = np.divide(product**2, square, out=np.zeros_like(square), where=square > 0)
    energy: Vector = (weights @ values**2)[:, None] - gained
    return energy


#: Rules by name: from the distribution and the moments of the current, and T, to shares.
RULES: dict[str, Callable[[Histogram, Moments, int], Vector]] = {
    "max": lambda seen, _moments, _levels: np.ones(seen.bound.size),
    "percentile": lambda seen, _moments, _levels: percentile(seen, PERCENT),
    "mse": lambda seen, _moments, levels: squared_error(seen, levels),
    "gaussian": lambda seen, moments, levels: squared_error(
        normal.histogram(moments, seen.bound), levels
    ),
}
