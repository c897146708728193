"""Thresholds of channels that fired rarely, against currents drawn afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from graphpass.calibration import shrinkage, threshold_rules
from graphpass.calibration.histogram import BINS, Histogram, Tally

_BOUND = 6.0


def _drawn(count: int, channels: int, seed: int) -> np.ndarray:
    """Positive currents of channels that are alike, up to the bound of a Clip."""
    return np.minimum(np.random.default_rng(seed).exponential(0.5, (count, channels)), _BOUND)


def _histogram(currents: np.ndarray) -> Histogram:
    tally = Tally(np.full(currents.shape[1], _BOUND, np.float32))
    tally.add(currents.astype(np.float32), 1)
    return tally.histogram()


def _left(currents: np.ndarray, share: np.ndarray, levels: int) -> float:
    """Mean squared error of the activation with these thresholds."""
    threshold = share * _BOUND
    spikes = np.clip(np.floor(levels * currents / threshold + 0.5), 0, levels)
    return float(np.square(currents - spikes * threshold / levels).mean())


@pytest.mark.parametrize("levels", [16, 64])
def test_thresholds_from_few_currents_serve_others_better(levels: int) -> None:
    few, later = _histogram(_drawn(20, 64, 0)), _drawn(4000, 64, 1)
    own, shrunk, best = (
        _left(later, threshold_rules.squared_error(histogram, levels), levels)
        for histogram in (few, shrinkage.towards_layer(few), _histogram(later))
    )
    assert best < shrunk < own
    assert shrunk - best < 0.25 * (own - best)


def test_what_fired_often_stays_as_it_is() -> None:
    often = _histogram(_drawn(100_000, 4, 2))
    shares = [
        threshold_rules.squared_error(histogram, 16)
        for histogram in (often, shrinkage.towards_layer(often))
    ]
    np.testing.assert_allclose(*shares, rtol=0.05)


def test_every_channel_has_the_same_weight_in_the_layer() -> None:
    counts = np.zeros((3, BINS), np.int64)
    counts[0, 10], counts[1, 20] = 1, 999_999  # and one that never fired
    found = shrinkage.towards_layer(Histogram(np.full(3, _BOUND), counts)).counts - counts
    assert found[:, 10] == pytest.approx([50.0] * 3)
    assert found[:, 20] == pytest.approx([50.0] * 3)
    assert found.sum() == pytest.approx(300.0)


def test_a_layer_that_never_fired_tells_nothing() -> None:
    silent = Histogram(np.full(2, _BOUND), np.zeros((2, BINS), np.int64))
    assert shrinkage.towards_layer(silent) is silent
