"""Closed forms of normal currents against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphpass.calibration import normal, threshold_rules
from graphpass.calibration.moments import Moments
from graphpass_runtime.errors import ModelError

DRAWS = 400_000


def _draw(mean: float, spread: float) -> np.ndarray:
    """Currents whose own spread is log-normal, with the kurtosis that is assumed."""
    rng = np.random.default_rng(0)
    tau = math.sqrt(math.log(2.0) / 4.0)  # 3 exp(4 tau^2) = 6
    factor = np.exp(tau * rng.normal(size=DRAWS) - tau**2)
    return mean + spread * factor * rng.normal(size=DRAWS)


def test_cumulative_is_that_of_the_normal_distribution():
    points = np.linspace(-7, 7, 999)
    exact = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in points])
    assert np.abs(normal.cumulative(points) - exact).max() < 1e-7


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (-0.7, 0.5), (1.0, 2.0)])
def test_histogram_is_that_of_draws(mean: float, spread: float):
    bound = np.float32(mean + 4 * spread)
    found = normal.histogram(Moments(np.array([mean]), np.array([spread])), np.array([bound]))
    shares = found.counts[0].reshape(64, -1).sum(axis=1) / normal.MASS
    draws = np.minimum(_draw(mean, spread), bound * (1 - 1e-6))
    drawn = np.histogram(draws, 64, (0.0, float(bound)))[0] / DRAWS
    # Three nodes of quadrature against the whole mixture, and sampling noise.
    assert np.abs(np.cumsum(shares) - np.cumsum(drawn)).max() < 0.01


def test_threshold_is_near_the_best_for_draws():
    draws = _draw(0.0, 1.0)
    bound = np.array([normal.REACH], np.float32)
    histogram = normal.histogram(Moments(np.zeros(1), np.ones(1)), bound)
    y = np.maximum(draws, 0)

    def left(theta: float) -> float:
        n = np.clip(np.floor(8 * y / theta + 0.5), 0, 8)
        return float((y**2).mean() - (y * n).mean() ** 2 / (n * n).mean())

    share = threshold_rules.squared_error(histogram, 8)
    best = min(left(theta) for theta in np.linspace(1.0, normal.REACH, 60))
    assert left(float(share[0] * bound[0])) < 1.05 * best


def test_a_channel_without_spread_is_all_in_one_bin():
    found = normal.histogram(Moments(np.array([0.5]), np.zeros(1)), np.ones(1, np.float32))
    assert np.count_nonzero(found.counts) <= 2
    assert found.counts.sum() == pytest.approx(normal.MASS)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_largest_of_several(count: int):
    draws = np.random.default_rng(1).normal(size=(100_000, count)).max(axis=1)
    mean, spread = normal.largest_of(count)
    assert mean == pytest.approx(draws.mean(), abs=0.01)
    assert spread == pytest.approx(draws.std(), abs=0.01)


@pytest.mark.parametrize("moments", [Moments(np.zeros(2), np.array([1, np.nan]))])
def test_moments_that_are_not_finite_are_refused(moments):
    with pytest.raises(ModelError, match="spread of a current is not finite"):
        normal.histogram(moments, np.ones(2))
