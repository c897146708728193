"""What lies above the largest recorded current, against currents drawn afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from graphpass.calibration import tails, threshold_rules
from graphpass.calibration.histogram import Histogram, Tally

_CHANNELS = 2000


def _drawn(shape: str, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if shape == "normal":
        return rng.normal(0, 1, (count, _CHANNELS))
    return rng.exponential(1, (count, _CHANNELS))


def _histogram(samples: np.ndarray) -> Histogram:
    tally = Tally(samples.max(axis=0).astype(np.float32))
    tally.add(samples.astype(np.float32), 1)
    return tally.histogram()


def test_mean_excess_is_that_of_an_exponential_tail():
    samples = _drawn("exponential", 64, 1)
    found = tails.mean_excess(_histogram(samples)) * samples.max(axis=0)
    assert found.mean() == pytest.approx(1.0, rel=0.05)


def test_as_much_comes_above_the_largest_as_is_reckoned_with():
    recorded, later = _drawn("exponential", 32, 2), _drawn("exponential", 32, 3)
    largest = recorded.max(axis=0)
    tail = tails.unseen(_histogram(recorded))
    unseen = tail.values * largest[:, None]
    excess = np.maximum(later - largest, 0.0)
    assert (excess > 0).sum() / _CHANNELS == pytest.approx(32 / 33, rel=0.1)
    reckoned = tail.mass * (unseen - largest[:, None]).sum()
    assert reckoned == pytest.approx(excess.sum(), rel=0.15)


def test_values_that_reach_a_bound_have_no_tail():
    samples = np.minimum(_drawn("exponential", 1000, 4), 1.0)
    assert tails.mean_excess(_histogram(samples)).max() == 0.0


def test_the_next_below_a_current_that_fired_once_is_zero():
    histogram = _histogram(np.array([[1.0], [-1.0]]))
    assert tails.mean_excess(histogram)[0] == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize("shape", ["normal", "exponential"])
@pytest.mark.parametrize("levels", [16, 64])
def test_thresholds_from_few_currents_serve_others_better(shape: str, levels: int):
    recorded, later = _drawn(shape, 32, 5), np.maximum(_drawn(shape, 2000, 6), 0)
    histogram = _histogram(recorded)

    def error(unseen: tails.Tail | None) -> float:
        share = threshold_rules.squared_error(histogram, levels, unseen)
        amplitude = threshold_rules.amplitude(histogram, share, levels)
        counts = np.floor(levels * later / (share * histogram.bound) + 0.5)
        return float(np.square(later - amplitude * np.clip(counts, 0, levels)).mean())

    assert error(tails.unseen(histogram)) < 0.7 * error(None)


def test_among_many_currents_one_more_hardly_counts():
    histogram = _histogram(_drawn("normal", 20_000, 7)[:, :50])
    with_tail = threshold_rules.squared_error(histogram, 16, tails.unseen(histogram))
    without = threshold_rules.squared_error(histogram, 16)
    assert np.abs(with_tail / without - 1.0).mean() < 0.02


def test_of_a_grid_the_largest_weighs_less():
    """A bound that is the largest of 50 times as many currents leaves one in 50 above it."""
    samples = np.random.default_rng(3).exponential(size=(64, 5))
    histogram = _histogram(samples)
    whole, grid = tails.unseen(histogram), tails.unseen(histogram, 0.02)
    np.testing.assert_array_equal(grid.values, whole.values)
    assert grid.mass == pytest.approx(whole.mass / 50)
    lower, higher = (threshold_rules.squared_error(histogram, 64, t) for t in (grid, whole))
    assert (lower <= higher).all()
    assert (lower < higher).any()
