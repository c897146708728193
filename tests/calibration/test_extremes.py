"""The smallest and the largest current of each channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from graphpass.calibration.extremes import record_extremes
from graphpass.calibration.measuring import Measuring, Training
from graphpass.model import infer_shapes, load
from graphpass.running import open_session
from graphpass_runtime.data import open_data
from graphpass_runtime.session import Session

NET = "g (float[N,2,3] x) => (float[N,2,3] y) { a = Neg (x) y = Tanh (a) }"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_over_all_batches_and_positions(write_model: Callable[..., Path], batch: int) -> None:
    model = load(write_model(NET))
    infer_shapes(model)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)

    data = open_data([{"x": x}], Session(model_bytes(write_model)).inputs)
    silent, training = (lambda _t, _n: lambda _done: None), Training(1, 0, None)
    run = partial(open_session, provider="cpu", threads=1)
    measuring = Measuring(data, batch, 1, run, silent, training)
    found = record_extremes(model, {"a": 1, "y": None}, measuring)
    np.testing.assert_array_equal(found["a"][0], (-x).min(axis=(0, 2)))
    np.testing.assert_array_equal(found["a"][1], (-x).max(axis=(0, 2)))
    assert [end.shape for end in found["y"]] == [(1,), (1,)]
    np.testing.assert_allclose(found["y"][1], np.tanh((-x).max()), rtol=1e-6)


def model_bytes(write_model: Callable[..., Path]) -> bytes:
    return write_model(NET, name="again.onnx").read_bytes()
