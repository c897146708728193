"""Thresholds of unbounded activations: the largest value of every channel over all data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import convert

NET = """g (float[N,2,4,4] x) => (float[N,2] y) {
    a = Conv(x, w1, b1)
    r1 = Relu(a)
    b = Conv(r1, w2)
    r2 = Relu(b)
    p = GlobalAveragePool(r2)
    f = Flatten(p)
    c = MatMul(f, w3)
    r3 = Relu(c)
    y = MatMul(r3, w4)
}"""


@pytest.fixture
def weights() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    return {
        "w1": rng.normal(size=(3, 2, 1, 1)).astype(np.float32),
        "b1": rng.normal(size=3).astype(np.float32),
        "w2": rng.normal(0.4, 1, (4, 3, 1, 1)).astype(np.float32),
        "w3": rng.normal(0.4, 1, (4, 5)).astype(np.float32),
        "w4": rng.normal(size=(5, 2)).astype(np.float32),
    }


def activations(weights: dict[str, Any], x: Any) -> dict[str, Any]:
    """The plain ANN in numpy: every Relu's output."""
    r1 = np.maximum(np.einsum("nchw,oc->nohw", x, weights["w1"][..., 0, 0]), -np.inf)
    r1 = np.maximum(r1 + weights["b1"][:, None, None], 0)
    r2 = np.maximum(np.einsum("nchw,oc->nohw", r1, weights["w2"][..., 0, 0]), 0)
    r3 = np.maximum(r2.mean(axis=(2, 3)) @ weights["w3"], 0)
    return {"r1": r1, "r2": r2, "r3": r3}


def maxima(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: array.max(axis=tuple(i for i in range(array.ndim) if i != 1))
        for name, array in found.items()
    }


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_maximum_of_each_channel_over_all_batches(
    batch: int, weights: dict[str, Any], write_model: Callable[..., Path], tmp_path: Path
) -> None:
    x = np.random.default_rng(6).normal(size=(23, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    record = convert(
        write_model(NET, weights),
        tmp_path / "snn.onnx",
        steps=4,
        data=tmp_path / "data.npz",
        calib_batch=batch,
        calibrate="none",
        first_activation="spiking",
    ).record
    expected = maxima(activations(weights, x))
    assert [neuron.name for neuron in record.neurons] == ["r1", "r2", "r3"]
    for neuron in record.neurons:
        np.testing.assert_allclose(neuron.threshold, expected[neuron.name], rtol=1e-6)
        np.testing.assert_array_equal(neuron.shift, np.zeros_like(neuron.threshold))
        np.testing.assert_array_equal(neuron.amplitude, neuron.threshold / np.float32(4))


def test_kept_activations_are_not_measured(
    weights: dict[str, Any], write_model: Callable[..., Path], tmp_path: Path
) -> None:
    x = np.random.default_rng(6).normal(size=(5, 2, 4, 4)).astype(np.float32)
    result = convert(
        write_model(NET, weights),
        tmp_path / "snn.onnx",
        steps=4,
        data=[{"x": x}],
        calibrate="none",
        keep=["r3"],
    )
    assert [neuron.name for neuron in result.record.neurons] == ["r2"]
    by_name = {a.name: a for a in result.activations}
    assert by_name["r1"].threshold_max is by_name["r3"].threshold_max is None
    expected = maxima(activations(weights, x))["r2"]
    assert by_name["r2"].channels == 4
    np.testing.assert_allclose(by_name["r2"].threshold_max, expected.max(), rtol=1e-6)


@pytest.mark.parametrize("form", ["matmul", "counts"])
@pytest.mark.parametrize("dead", [[1], [0, 1, 2]])
def test_channels_that_never_fire_give_zeros(
    form: str,
    dead: list[int],
    weights: dict[str, Any],
    write_model: Callable[..., Path],
    bare_run: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    weights["b1"] = weights["b1"].copy()
    weights["b1"][dead] = -100
    x = np.random.default_rng(6).normal(size=(5, 2, 4, 4)).astype(np.float32)
    record = convert(
        write_model(NET, weights),
        tmp_path / "snn.onnx",
        steps=4,
        data=[{"x": x}],
        form=form,
        first_activation="spiking",
    ).record
    first = record.neurons[0]
    assert (first.threshold > 0).all()
    assert (first.threshold[dead] < 1e-4).all()
    y = bare_run(tmp_path / "snn.onnx", {"x": x})["y"]
    assert np.isfinite(y).all()
    if len(dead) == 3:
        np.testing.assert_array_equal(y, np.zeros_like(y))
    else:
        from graphpass import Session

        counts = Session(tmp_path / "snn.onnx").spike_counts({"x": x})["r1"]
        assert (counts[:, dead] == 0).all()
        assert (np.delete(counts, dead, axis=1) > 0).any()
