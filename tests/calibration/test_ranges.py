"""Ranges and means of tensors: one pass, the same numbers as NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass.calibration.measuring import Measuring, Training
from graphpass.calibration.ranges import record_currents
from graphpass.grids import Axes
from graphpass.model import load
from graphpass.running import open_session
from graphpass_runtime.data import open_data
from graphpass_runtime.session import Session

NET = """
    net (float[N, 3, 4, 4] x) => (float[N, 48] y) {
        r = Relu (x)
        y = Flatten (r)
    }
"""


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_ends_and_means_are_those_of_all_data(
    write_model: Callable[..., Path], opset: int, batch: int
) -> None:
    model = load(write_model(NET, opset=opset))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 3, 4, 4)).astype(np.float32) * np.arange(10).reshape(-1, 1, 1, 1)
    x = x.astype(np.float32)
    data = open_data([{"x": x}], Session(write_model(NET, opset=opset)).inputs)
    started: list[Any] = []

    def progress(title: str, samples: int | None) -> Callable[[int], None]:
        started.append((title, samples))
        return lambda _done: None

    measuring = Measuring(data, batch, 1, open_session, progress, Training(1, 0, None))
    found = record_currents(
        model, ["x", "y"], {"r": Axes(4, 1), "y": Axes(2, 1), "x": Axes(4, 1)}, measuring
    )
    positive = np.maximum(x, 0)
    assert found.ranges == {
        "x": (float(x.min()), float(x.max())),
        "y": (0.0, float(positive.max())),
    }
    np.testing.assert_allclose(found.means["x"], x.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.means["r"], positive.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.means["y"], positive.reshape(10, -1).mean(axis=0), rtol=1e-5)
    # Plain numbers that read back as the same float32.
    assert all(float(np.float32(m)) == pytest.approx(m, rel=1e-7) for m in found.means["y"])
    assert len(started) == 1
