"""Batches are joined for a model only where that changes nothing for the samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from graphpass_runtime.batch import Batch
from graphpass_runtime.independence import samples_are_independent
from graphpass_runtime.session import Session

Build = Callable[..., bytes]

BY_ITSELF = "g (float[N,3] x) => (float[N,3] y) { y = Softmax(x) }"
MIXED = "g (float[N,3] x) => (float[N,3] y) { mean = ReduceMean <axes=[0]> (x) y = Sub(x, mean) }"
ONE_CLOUD = "g (float[POINTS,3] x) => (float[1,3] y) { y = ReduceMax <axes=[0]> (x) }"
NO_ROWS = "g (float[N,3] x) => (float y) { y = ReduceSum <keepdims=0> (x) }"
LARGEST = "g (float[N,3] x) => (int64[N] y) { y = ArgMax <axis=1, keepdims=0> (x) }"
LARGEST_ROW = "g (float[N,3] x) => (int64[3] y) { y = ArgMax <axis=0, keepdims=0> (x) }"
POSITIVE_COLUMNS = (
    "g (float[N,3] x) => (float[N,M] y) <float zero = {0}>"
    " { least = ReduceMin <axes=[0], keepdims=0> (x) positive = Greater(least, zero)"
    " y = Compress <axis=1> (x, positive) }"
)
MADE_FOR_ONE = "g (float[N,3] x) => (float[N,3] y) <int64[2] one = {1, 3}> { y = Reshape(x, one) }"


def rows(start: int, count: int) -> Batch:
    x = np.random.default_rng(start).normal(size=(count, 3)).astype(np.float32)
    return Batch({"x": x}, None)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        *((BY_ITSELF, True), (LARGEST, True)),
        *((MIXED, False), (ONE_CLOUD, False), (NO_ROWS, False)),
        *((LARGEST_ROW, False), (POSITIVE_COLUMNS, False), (MADE_FOR_ONE, False)),
    ],
)
def test_samples_by_themselves_are_told_from_samples_that_mix(build: Build, graph, expected):
    left, right = rows(0, 1), rows(1, 1)
    both = Batch({"x": np.concatenate([left.feeds["x"], right.feeds["x"]])}, None)
    opened = partial(Session, build(graph))
    assert samples_are_independent(opened, left, right, both) == expected
