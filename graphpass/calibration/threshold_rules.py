"""Thresholds and amplitudes in closed form, from the distribution of the current.

With y = max(z, 0) and n = Clip(Floor(T y / theta + 1/2), 0, T), the amplitude a that
makes E (y - a n)^2 least is E[y n] / E[n^2], and what is left is
E[y^2] - E[y n]^2 / E[n^2] (least squares). Thresholds are given as shares of the largest
current, the upper end of the histogram. Where the network itself does not bound the current,
larger ones than were recorded are reckoned with (`tails`), and a share may exceed 1; where it
does, the distribution is that which is to be expected of the channel (`shrinkage`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass.calibration import normal, shrinkage
from graphpass.calibration.histogram import BINS, MIDDLES, Histogram
from graphpass.calibration.moments import Moments, Vector
from graphpass.calibration.tails import Tail

#: What `percentile` cuts off is the rest, of the positive currents.
PERCENT = 99.9

# Candidates for theta as shares of the largest current. At one time-step the best
# threshold of a half-normal current is about a quarter of its maximum.
_SHARES = np.geomspace(0.04, 1.0, 96)
_ABOVE = np.geomspace(1.0, 4.0, 42)[1:]  # where larger currents may come


def squared_error(histogram: Histogram, levels: int, unseen: Tail | None = None) -> Vector:
    """Share of the largest current that leaves the least squared error, ``[C]``.

    Args:
        histogram: of the current.
        levels: T.
        unseen: currents above the bound that may come (`tails.unseen`); None if none can.

    Returns:
        The shares; a channel that never fired gets 1.
    """
    candidates = _SHARES if unseen is None else np.concatenate([_SHARES, _ABOVE])
    error = _left(histogram, levels, candidates, unseen)
    return np.where(histogram.counts.any(axis=1), candidates[error.argmin(axis=1)], 1.0)


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
    # In float32, since these rows are long and all terms positive: half the time.
    values = MIDDLES.astype(np.float32)
    counts = spike_counts(values, levels, share.astype(np.float32)[:, None])
    weighted = histogram.counts.astype(np.float32) * counts
    product = np.einsum("cb,b->c", weighted, values) * histogram.bound
    square = np.einsum("cb,cb->c", weighted, counts)
    regular = share * histogram.bound / levels
    amplitudes: Vector = np.divide(product, square, out=regular, where=square > 0)
    return amplitudes


def _left(histogram: Histogram, levels: int, candidates: Vector, unseen: Tail | None) -> Vector:
    """Squared error that is left for every candidate, ``[C, candidates]``, up to a scale."""
    weights = histogram.counts.astype(np.float64, copy=False)
    values = MIDDLES[:, None]
    counts = spike_counts(values, levels, candidates)
    product, square = weights @ (values * counts), weights @ counts**2
    energy = weights @ values**2
    if unseen is not None:
        for value in unseen.values.T[:, :, None]:
            counts = spike_counts(value, levels, candidates)
            product += unseen.mass * value * counts
            square += unseen.mass * counts**2
            energy += unseen.mass * value**2
    gained = np.divide(product**2, square, out=np.zeros_like(square), where=square > 0)
    left: Vector = energy - gained
    return left


def spike_counts(values: NDArray[Any], levels: int, shares: NDArray[Any]) -> NDArray[Any]:
    """Clip(Floor(T y / theta + 1/2), 0, T), y and theta as shares of the largest current."""
    return np.clip(np.floor(values * (levels / shares) + 0.5), 0, levels)


#: A rule of thresholds: from the distribution and the moments of the current, T, and what is
#: above the distribution (None where the network bounds the current), to shares.
Rule = Callable[[Histogram, Moments, int, Tail | None], Vector]

RULES: dict[str, Rule] = {
    "max": lambda seen, _moments, _levels, _unseen: np.ones(seen.bound.size),
    "percentile": lambda seen, _moments, _levels, _unseen: percentile(seen, PERCENT),
    "mse": lambda seen, _moments, levels, unseen: squared_error(
        shrinkage.towards_layer(seen) if unseen is None else seen, levels, unseen
    ),
    "gaussian": lambda seen, moments, levels, _unseen: squared_error(
        normal.histogram(moments, seen.bound), levels
    ),
}
