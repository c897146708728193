"""Data from Python: iterables of input dicts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphpass_runtime.data import Dataset, open_data
from graphpass_runtime.errors import DataError
from graphpass_runtime.feeds import TensorSpec

X = TensorSpec("x", np.dtype(np.float32), ("N", 3))


def _all(data: Dataset, size: int = 3) -> tuple[dict[str, Any], Any]:
    batches = list(data.batches(size))
    feeds = {
        name: np.concatenate([batch.feeds[name] for batch in batches]) for name in batches[0].feeds
    }
    labels = [batch.labels for batch in batches]
    return feeds, None if labels[0] is None else np.concatenate(labels)


def _dicts(*sizes: int, labels: bool = True) -> list[dict[str, Any]]:
    starts = np.cumsum([0, *sizes])
    rows = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    return [
        {"x": np.repeat(row[:, None], 3, axis=1).astype(np.float32)}
        | ({"labels": row} if labels else {})
        for row in rows
    ]


def test_dicts_keep_their_batches() -> None:
    data = open_data(_dicts(2, 4, 1), [X])
    assert (data.samples, data.labelled) == (7, True)
    for _ in range(2):
        assert [len(batch.feeds["x"]) for batch in data.batches(3)] == [2, 4, 1]
    np.testing.assert_array_equal(_all(data)[1], np.arange(7))
    assert open_data(_dicts(3, labels=False)[0], [X]).samples == 3


def test_dicts_are_sampled_evenly() -> None:
    data = open_data(_dicts(2, 5, 1, 4), [X], samples=4)
    feeds, labels = _all(data)
    np.testing.assert_array_equal(labels, [0, 3, 6, 9])
    np.testing.assert_array_equal(feeds["x"][:, 0], labels)
    assert data.samples == 4


def test_generator_is_read_once_and_no_further_than_needed() -> None:
    read = []

    def produce() -> Iterator[dict[str, Any]]:
        for item in _dicts(2, 2, 2):
            read.append(item)
            yield item

    data = open_data(produce(), [X], samples=3)
    assert (data.samples, data.labelled) == (None, True)
    np.testing.assert_array_equal(_all(data)[1], [0, 1, 2])
    assert len(read) == 2
    with pytest.raises(DataError, match="read only once"):
        list(data.batches(1))


def test_iterable_is_read_again() -> None:
    class Loader:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return iter(_dicts(2, 2))

    data = open_data(Loader(), [X], samples=3)
    assert data.samples is None
    for _ in range(2):
        np.testing.assert_array_equal(_all(data)[1], [0, 1, 2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds no samples"),
        ([3], "batch 0: is a int"),
        ([{"y": 1}], "has no 'x'; the model's inputs are x"),
        ([{"x": np.ones((2, 3))}], r"batch 0: input 'x' is float32\[N,3\], got float64"),
        ([{"x": np.ones((0, 3), np.float32)}], "is empty"),
        ([{"x": np.full((1, 3), np.nan, np.float32)}], "NaN"),
        (_dicts(2) + _dicts(2, labels=False), "batch 1 lacks labels"),
        (_dicts(2, labels=False) + _dicts(2), "batch 1 has labels"),
        ([{"x": np.ones((2, 3), np.float32), "labels": [1]}], "1 labels for 2 samples"),
        (np.ones((2, 3)), "data is a ndarray"),
        (7, "data is a int"),
    ],
)
def test_python_data_that_does_not_fit_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_data(data, [X]).batches(1))
