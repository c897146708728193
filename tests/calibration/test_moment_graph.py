"""Means and variances sent through operators, against draws sent through the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphpass import Session
from graphpass.calibration import moment_graph
from graphpass.calibration.moment_graph import Known
from graphpass.calibration.moments import Moments
from graphpass.model import infer_shapes, load
from graphpass.running import open_session
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord, Stage

Write = Callable[..., Path]

RNG = np.random.default_rng(0)
MEAN, SPREAD = np.array([0.3, -0.5]), np.array([1.0, 0.7])
WEIGHTS = {
    "w": RNG.normal(0, 0.5, (3, 2, 3, 3)).astype(np.float32),
    "b": RNG.normal(0, 0.5, 3).astype(np.float32),
    "up": RNG.normal(0, 0.5, (2, 3, 2, 2)).astype(np.float32),
    "m": RNG.normal(0, 0.3, (32, 3)).astype(np.float32),
    "g": RNG.normal(0, 0.3, (3, 32)).astype(np.float32),
    "c2": np.array([[[2.0]], [[-3.0]]], np.float32),
    "scale": np.array([0.5, 2.0], np.float32),
    "offset": np.array([1.0, -1.0], np.float32),
    "var": np.array([2.0, 0.3], np.float32),
    "shape": np.array([0, -1], np.int64),
    "pads": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64),
    "seven": np.array(7.0, np.float32),
    "four": np.array(1.5, np.float32),
    "zero": np.array(0.0, np.float32),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "axis": np.array([1], np.int64),
}

#: Name -> body that makes z from x [N, 2, 4, 4].
LINEAR = {
    "conv with padding": "z = Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (x, w, b)",
    "strided conv": "z = Conv <strides = [2,2], kernel_shape = [3,3]> (x, w, b)",
    "transposed conv": "z = ConvTranspose <strides = [2,2], kernel_shape = [2,2]> (x, up, b)",
    "matmul": "f = Flatten (x) z = MatMul (f, m)",
    "gemm": "f = Flatten (x) z = Gemm <alpha = 2.0, beta = 0.5, transB = 1> (f, g, b)",
    "batch norm": "z = BatchNormalization (x, scale, offset, offset, var)",
    "add and subtract constants": "s = Add (x, c2) z = Sub (seven, s)",
    "scaling": "s = Mul (c2, x) z = Div (s, seven)",
    "average pool": "z = AveragePool <kernel_shape = [2,2], strides = [2,2]> (x)",
    "global average": "z = GlobalAveragePool (x)",
    "mean": "z = ReduceMean <axes = [2,3]> (x)",
    "pad with a value": "z = Pad (x, pads, seven)",
    "layout": "t = Transpose <perm = [0,2,3,1]> (x) s = Slice (t, one, two, axis)"
    " z = Reshape (s, shape)",
    "concat with conv": "s = Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (x, w, b)"
    " z = Concat <axis = 1> (s, x)",
}
NONLINEAR = {
    "relu": "y = Relu (x) z = Mul (y, seven)",
    "clip": "y = Clip (x, zero, four) z = Mul (y, seven)",
    "max pool": "z = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)",
}


def _known() -> dict[str, Known]:
    return {"x": Known(Moments(MEAN, SPREAD), 1)}


def _model(write_model: Write, body: str) -> Path:
    flat = any(op in body for op in ("MatMul", "Gemm", "Reshape"))
    shape = "N,C" if flat else "N,C,H,W"
    return write_model(
        f"net (float[N,2,4,4] x) => (float[{shape}] out) {{ {body} out = Relu (z) }}",
        {key: array for key, array in WEIGHTS.items() if key in _words(body)},
    )


def _words(body: str) -> set[str]:
    return set(body.replace(",", " ").replace("(", " ").replace(")", " ").split())


def _compare(write_model: Write, body: str, tolerance: float) -> None:
    path = _model(write_model, body)
    model = load(path)
    infer_shapes(model)
    (found,) = moment_graph.currents(model, {"out": None}, _known(), open_session).values()
    draws = RNG.normal(size=(40_000, 2, 4, 4)) * SPREAD[:, None, None] + MEAN[:, None, None]
    session = Session(path, extra_outputs=["z"])
    drawn = session.run({"x": draws.astype(np.float32)}, ["z"])["z"].astype(np.float64)
    assert found.mean[0] == pytest.approx(drawn.mean(), abs=tolerance * drawn.std())
    assert found.spread[0] == pytest.approx(drawn.std(), rel=tolerance)


@pytest.mark.parametrize("body", LINEAR.values(), ids=LINEAR)
def test_affine_operators_are_exact_on_independent_inputs(body: str, write_model: Write):
    _compare(write_model, body, 0.01)


@pytest.mark.parametrize("body", NONLINEAR.values(), ids=NONLINEAR)
def test_activations_and_maxima_are_exact_on_normal_inputs(body: str, write_model: Write):
    _compare(write_model, body, 0.01)


def test_current_is_pooled_where_a_max_pool_is_all_that_reads_it(write_model: Write):
    text = """net (float[N,2,4,4] x) => (float[N,2,2,2] out) {
        out_before = Relu (x)
        out = MaxPool <kernel_shape = [2,2], strides = [2,2]> (out_before)
    }"""
    model = load(write_model(text))
    infer_shapes(model)
    found = moment_graph.currents(model, {"out_before": 1}, _known(), open_session)["out_before"]
    draws = RNG.normal(size=(100_000, 4)).max(axis=1)
    assert found.mean == pytest.approx(MEAN + SPREAD * draws.mean(), abs=0.01)
    assert found.spread == pytest.approx(SPREAD * draws.std(), abs=0.01)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("z = Sigmoid (x)", r"Sigmoid node 'z' has no rule for means and variances"),
        ("z = Clip (x, four, seven)", r"Clip node 'z' has no rule: its lower bound is not 0"),
        (
            "t = Identity (four) z = Clip (x, zero, t)",
            r"Clip node 'z' has a bound that is not constant",
        ),
        ("z = Mul (x, x)", r"Mul node 'z' multiplies two tensors that both vary"),
    ],
)
def test_what_has_no_moments_is_named(body: str, message: str, write_model: Write):
    model = load(_model(write_model, body))
    infer_shapes(model)
    with pytest.raises(ModelError, match=message):
        moment_graph.currents(model, {"out": 1}, _known(), open_session)


def test_an_input_without_statistics_is_named(write_model: Write):
    body = LINEAR["conv with padding"]
    model = load(_model(write_model, body))
    infer_shapes(model)
    with pytest.raises(ModelError, match=r"Conv node 'z' reads 'x', of which no BatchNorm"):
        moment_graph.currents(model, {"out": 1}, {}, open_session)


def test_statistics_of_different_sizes_do_not_count(write_model: Write):
    model = load(_model(write_model, LINEAR["batch norm"]))
    unequal = {"mean": [1.0, 2.0], "std": [1.0]}
    model.record = FileRecord(Stage.NORMALISED, batch_norms={"z": unequal})
    assert moment_graph.recorded(model) == {}
