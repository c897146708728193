"""What each activation's rounding does to the output, against the same computed in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import convert, stages
from graphpass.calibration.measuring import Measuring, Training
from graphpass.model import Model, load
from graphpass.pipeline import plan_conversion
from graphpass.running import open_session
from graphpass_runtime.data import open_data
from graphpass_runtime.feeds import TensorSpec

NET = """g (float[N,8] x) => (float[N,4] y) {
    a = Gemm (x, u)
    r = Relu (a)
    b = Gemm (r, v)
    e = Relu (b)
    y = Gemm (e, w)
}"""
#: `r` is read by a layer and skips it.
RESIDUAL = """g (float[N,8] x) => (float[N,4] y) {
    a = Gemm (x, u)
    r = Relu (a)
    b = Gemm (r, v)
    s = Add (b, r)
    e = Relu (s)
    y = Gemm (e, w)
}"""


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = {"u": (8, 6), "v": (6, 6), "w": (6, 4)}
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(192, 8)).astype(np.float32)


@pytest.fixture
def stage1(write_model: Callable[..., Path], weights: Any) -> Callable[[str], Model]:
    def make(text: str) -> Model:
        model = load(write_model(text, weights))
        stages.normalise(model)
        plan = plan_conversion(model, first_activation="spiking")
        names = stages.unbounded(model, plan.rectifiers)
        stages.bound(model, plan, {name: np.full(6, 100, np.float32) for name in names})
        return model

    return make


def measured(
    model: Model,
    data: Iterable[dict[str, np.ndarray]],
    batch: int = 32,
    read: Callable[[int], None] = lambda _count: None,
    **how: Any,
) -> dict[str, float]:
    source = open_data(data, [TensorSpec("x", np.dtype(np.float32), ("N", 8))])
    training = Training(1, 0, None)
    measuring = Measuring(
        *(source, batch, 1, open_session, lambda _title, _total: read, training), **how
    )
    return stages.measure_sensitivities(model, measuring)


def rounded(y: np.ndarray) -> np.ndarray:
    step = 0.5 * np.square(y).mean(axis=0) / np.maximum(y.mean(axis=0), 1e-9)
    return np.where(step > 0, np.floor(y / np.maximum(step, 1e-9) + 0.5) * step, y)


def test_is_the_error_of_the_output_with_one_activation_rounded(stage1, weights, x) -> None:
    """On 16 of the 192 samples."""
    r = np.maximum(x[::12] @ weights["u"], 0)
    e = np.maximum(r @ weights["v"], 0)
    y = e @ weights["w"]
    with_r = np.maximum(rounded(r) @ weights["v"], 0) @ weights["w"]
    with_e = rounded(e) @ weights["w"]
    energy = np.square(y).sum()
    found = measured(stage1(NET), [{"x": x}])
    assert found == pytest.approx(
        {
            "r": np.square(with_r - y).sum() / energy,
            "e": np.square(with_e - y).sum() / energy,
        },
        rel=1e-3,
    )


def test_what_skips_layers_stays_as_it_is(stage1, weights, x) -> None:
    r = np.maximum(x[::12] @ weights["u"], 0)
    y, with_r = (np.maximum(read @ weights["v"] + r, 0) @ weights["w"] for read in (r, rounded(r)))
    found = measured(stage1(RESIDUAL), [{"x": x}])
    assert found["r"] == pytest.approx(np.square(with_r - y).sum() / np.square(y).sum(), rel=1e-3)


def test_the_model_stays_as_it_is(stage1, x) -> None:
    model = stage1(RESIDUAL)
    before = [node.name for node in model.graph.nodes]
    measured(model, [{"x": x}])
    assert [node.name for node in model.graph.nodes] == before


@pytest.mark.filterwarnings("error")
def test_outputs_that_say_nothing(stage1, weights, x) -> None:
    assert measured(stage1(NET), [{"x": 0 * x}]) == {}
    weights["w"] *= 0
    assert measured(stage1(NET), [{"x": x}]) == {}


def test_few_samples_are_read(stage1, x) -> None:
    many = [{"x": x[:12]} for _ in range(50)]  # 600 samples, 2 activations
    for data, expected in ((many, 16), (many[:1], 1), (iter(many), 16)):
        read: list[int] = []
        measured(stage1(NET), data, read=read.append)
        assert sum(read) == expected
    assert measured(stage1(NET), many, batch=12, batch_fixed=True)  # whole batches of 12


def test_neurons_go_where_rounding_matters(write_model: Callable[..., Path], tmp_path) -> None:
    """Two branches of the same work, one of which hardly reaches the output."""
    text = """g (float[N,8] x) => (float[N,4] y) {
        a = Gemm (x, t) q = Relu (a)
        b = Gemm (q, u) r = Relu (b)
        c = Gemm (q, v) e = Relu (c)
        d = Gemm (r, w) f = Gemm (e, z)
        y = Add (d, f)
    }"""
    rng = np.random.default_rng(3)
    sizes = {"t": (8, 64), "u": (64, 16), "v": (64, 16), "w": (16, 4), "z": (16, 4)}
    data = [{"x": rng.normal(size=(64, 8)).astype(np.float32)}]
    for weak, strong in (("w", "e"), ("z", "r")):
        weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
        weights[weak] *= 1e-3
        weights["t"] *= 0.1
        ann = write_model(text, weights)
        result = convert(
            *(ann, tmp_path / "snn.onnx"),
            **{"steps": 40, "data": data, "form": "counts", "first_activation": "spiking"},
        )
        members = {neuron.name: neuron.members for neuron in result.record.neurons}
        assert members[strong] == 3
