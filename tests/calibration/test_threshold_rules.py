"""Closed-form thresholds and amplitudes against brute force on the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest

from graphpass.calibration import threshold_rules
from graphpass.calibration.histogram import Histogram, Tally


def _histogram(samples: np.ndarray) -> Histogram:
    tally = Tally(np.abs(samples.max(axis=0)))
    tally.add(samples.astype(np.float32), 1)
    return tally.histogram()


def _left(samples: np.ndarray, theta: float, levels: int) -> float:
    """Squared error at the least-squares amplitude."""
    y = np.maximum(samples, 0)
    n = np.clip(np.floor(levels * y / theta + 0.5), 0, levels)
    amplitude = (y * n).sum() / (n * n).sum()
    return float(np.square(y - amplitude * n).mean())


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("shape", ["normal", "exponential"])
def test_threshold_leaves_nearly_the_least_squared_error(levels: int, shape: str):
    rng = np.random.default_rng(levels)
    samples = (
        rng.normal(0, 1, (200_000, 1)) if shape == "normal" else rng.exponential(1, (200_000, 1))
    )
    histogram = _histogram(samples)
    theta = float(threshold_rules.squared_error(histogram, levels)[0] * histogram.bound[0])
    grid = np.linspace(0.03, 1.0, 400) * samples.max()
    best = min(_left(samples, candidate, levels) for candidate in grid)
    assert _left(samples, theta, levels) <= 1.01 * best
    assert _left(samples, theta, levels) < _left(samples, float(samples.max()), levels)


def test_amplitude_is_the_least_squares_one():
    samples = np.random.default_rng(1).normal(0, 1, (100_000, 2))
    histogram = _histogram(samples)
    share = np.array([0.4, 0.8])
    found = threshold_rules.amplitude(histogram, share, 4)
    for channel in range(2):
        y = np.maximum(samples[:, channel], 0)
        n = np.clip(np.floor(4 * y / (share * histogram.bound)[channel] + 0.5), 0, 4)
        assert found[channel] == pytest.approx((y * n).sum() / (n * n).sum(), rel=2e-3)


def test_percentile_is_that_of_the_positive_currents():
    samples = np.random.default_rng(2).normal(0, 1, (100_000, 1))
    histogram = _histogram(samples)
    found = threshold_rules.percentile(histogram, 99.0) * histogram.bound
    assert found[0] == pytest.approx(np.percentile(samples[samples > 0], 99.0), rel=5e-3)


def test_a_channel_that_never_fired_keeps_its_threshold():
    histogram = _histogram(np.array([[1.0, -1.0], [0.5, -2.0]]))
    assert threshold_rules.squared_error(histogram, 4)[1] == 1.0
    assert threshold_rules.percentile(histogram, 99.0)[1] == 1.0
    assert threshold_rules.amplitude(histogram, np.ones(2), 4)[1] == 0.25
