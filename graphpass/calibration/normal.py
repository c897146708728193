"""Currents that are normally distributed, with a spread that differs from place to place.

A channel is livelier in some images, and in some places of them, than in others. Over all of
them its distribution has more large values than a normal one of the same spread: its
kurtosis (mean fourth power over squared mean square; 3 for the normal distribution) had
medians over channels of 3.3 to 14 in the layers of ResNet-20, MobileNetV2 and SqueezeNet, on
training images. Thresholds for normal currents proper are 15 to 40 % too small there. So the
spread itself is taken to be log-normal, which leaves everything in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass.calibration.histogram import BINS, Histogram
from graphpass.calibration.moments import Moments, Vector
from graphpass_runtime.errors import ModelError

# Phi between grid points is interpolated; the error is below 1e-7.
_GRID = np.linspace(-8.0, 8.0, 16385)
_CUMULATIVE = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _GRID])

_KURTOSIS = 6.0
# Gauss-Hermite quadrature over the logarithm of the spread: 3 exp(4 tau^2) is the kurtosis,
# of which three nodes keep 5.5.
_WEIGHTS = np.array([1.0, 4.0, 1.0]) / 6.0
_SPREADS = np.exp(math.sqrt(math.log(_KURTOSIS / 3.0) / 4.0) * math.sqrt(3.0) * np.arange(-1, 2))
_SPREADS /= math.sqrt((_WEIGHTS * _SPREADS**2).sum())

#: Standard deviations above the mean that hardly any current exceeds (one in 10^7).
REACH = 8.0

#: Counts of a histogram per unit of probability.
MASS = 1 << 40


def cumulative(standardised: Vector) -> Vector:
    """Phi, the share of a standard normal variable below a value."""
    return np.asarray(np.interp(standardised, _GRID, _CUMULATIVE))


def histogram(moments: Moments, bound: NDArray[np.floating[Any]]) -> Histogram:
    """The histogram of a current: `MASS` times the probability of every bin.

    Args:
        moments: of the current, ``[C]``.
        bound: upper end of the last bin, ``[C]``; the tail above is counted in it.

    Raises:
        ModelError: the moments are not finite.
    """
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.spread).all()):
        raise ModelError(
            "the mean or the spread of a current is not finite",
            remedy="check weights and data, or use another --threshold",
        )
    edges = bound.astype(np.float64)[:, None] * (np.arange(BINS + 1) / BINS)
    spread = np.maximum(moments.spread, np.finfo(np.float32).tiny)[:, None]
    standardised = (edges - moments.mean[:, None]) / spread
    below = np.zeros_like(edges)
    for weight, factor in zip(_WEIGHTS, _SPREADS, strict=True):
        below += weight * cumulative(standardised / factor)
    below[:, -1] = 1.0
    counts = np.rint(np.diff(below, axis=1) * MASS).astype(np.int64)
    return Histogram(bound.astype(np.float64), counts)


def largest_of(count: int) -> tuple[float, float]:
    """Mean and standard deviation of the largest of so many standard normal variables.

    They are taken to be independent; the density of the largest is k phi Phi^(k-1).
    """
    mass = np.diff(_CUMULATIVE**count)
    middle = (_GRID[1:] + _GRID[:-1]) / 2
    mean = float((mass * middle).sum())
    return mean, math.sqrt(float((mass * (middle - mean) ** 2).sum()))
