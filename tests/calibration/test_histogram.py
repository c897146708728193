"""Histograms: what numpy counts, whatever the order and the sharding."""

from __future__ import annotations

import numpy as np
import pytest

from graphpass.calibration.histogram import BINS, Histogram, Tally


def counted(bound: np.ndarray, *batches: np.ndarray, axis: int | None = 1) -> Histogram:
    tally = Tally(bound)
    for batch in batches:
        tally.add(batch, axis)
    return tally.histogram()


@pytest.fixture
def currents() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (40, 3, 5, 5)).astype(np.float32)


def test_counts_are_those_of_numpy_for_positive_currents(currents):
    bound = currents.max(axis=(0, 2, 3))
    found = counted(bound, currents)
    for channel in range(3):
        values = currents[:, channel].astype(np.float64)
        wanted, _ = np.histogram(values[values > 0], bins=BINS, range=(0, bound[channel]))
        # Values on an edge between two bins may fall on either side in float32.
        assert np.abs(np.cumsum(found.counts[channel]) - np.cumsum(wanted)).max() <= 1
        assert found.counts[channel].sum() == (values > 0).sum()


def test_larger_currents_are_counted_in_the_last_bin():
    found = counted(np.ones(1, np.float32), np.full((2, 4), 7.0, np.float32), axis=None)
    assert found.counts[0, -1] == 8


def test_merging_shards_in_any_order_gives_the_same_counts(currents):
    bound = np.full(3, 2.0, np.float32)
    whole = counted(bound, currents)
    first, second = counted(bound, currents[:13]), counted(bound, currents[13:])
    assert np.array_equal(first.merge(second).counts, whole.counts)
    assert np.array_equal(second.merge(first).counts, whole.counts)


def test_memory_does_not_depend_on_the_number_of_images(currents):
    tally = Tally(np.full(3, 2.0, np.float32))
    before = tally._counts.nbytes
    for _ in range(50):
        tally.add(currents, 1)
    assert tally._counts.nbytes == before
    once = counted(np.full(3, 2.0, np.float32), currents)
    np.testing.assert_array_equal(tally.histogram().counts, 50 * once.counts)


def test_what_was_counted_can_be_read_in_between(currents):
    tally = Tally(np.full(3, 2.0, np.float32))
    assert tally.histogram().counts.sum() == 0
    tally.add(currents[:13], 1)
    half = tally.histogram()
    before = half.counts.copy()
    tally.add(currents[13:], 1)
    np.testing.assert_array_equal(half.counts, before)
    assert tally.histogram().counts.sum() == (currents > 0).sum()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bound", [1e-45, 1e-38])
def test_bound_near_zero(bound):
    currents = np.array([[-1.0], [0.0], [1e-45], [1.0], [3e38]], np.float32)
    found = counted(np.full(1, bound, np.float32), currents)
    assert found.counts.sum() == 3
    assert found.counts[0, -1] >= 2


@pytest.mark.filterwarnings("error")
def test_a_channel_that_hardly_fires_far_below_zero() -> None:
    """Billions of bins below the first one: left out like all that is not positive."""
    bound = np.array([1e-6], np.float32)
    far = counted(bound, np.array([[-1e6], [5e-7]], np.float32))
    assert far.counts.sum() == far.counts[0, BINS // 2 - 1 : BINS // 2 + 1].sum() == 1
