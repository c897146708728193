"""Synaptic work: the multiply-accumulates of the layers that read an activation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphpass.fanout import known_work, synaptic_work
from graphpass.model import infer_shapes, load
from graphpass_runtime.errors import ModelError

RESIDUAL = """g (float[N,2,6,6] x) => (float[N,5] y) {
    a = Relu(x)
    b = Conv <pads = [1,1,1,1]> (a, w3)
    c = Relu(b)
    d = Conv <pads = [1,1,1,1], strides = [2,2]> (c, w3)
    p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (a)
    s = Add(d, p)
    e = Relu(s)
    f = GlobalAveragePool(e)
    h = Flatten(f)
    y = Gemm <transB = 1> (h, wy)
}"""


def ones(*shape: int) -> object:
    return np.ones(shape, np.float32)


def test_residual_network(write_model: Callable[..., Path]) -> None:
    model = load(write_model(RESIDUAL, {"w3": ones(2, 2, 3, 3), "wy": ones(5, 2)}))
    infer_shapes(model)
    found = synaptic_work(model, ["a", "c", "e"])
    # The pooled branch of `a` reaches the sum, and there the next activation.
    assert found == {"a": 2 * 36 * 2 * 9, "c": 2 * 9 * 2 * 9, "e": 5 * 2}
    assert synaptic_work(model, ["a"])["a"] == 2 * 36 * 2 * 9 + 5 * 2


def test_depthwise_transposed_and_matmul(write_model: Callable[..., Path]) -> None:
    text = """g (float[N,4,5,5] x) => (float[N,3,9,9] y, float[N,4,5,7] z) {
        a = Relu(x)
        b = Conv <pads = [1,1,1,1], group = 4> (a, depthwise)
        c = Relu(b)
        y = ConvTranspose <strides = [2,2], kernel_shape = [1,1]> (c, transposed)
        z = MatMul(c, product)
    }"""
    weights = {
        "depthwise": ones(4, 1, 3, 3),
        "transposed": ones(4, 3, 1, 1),
        "product": ones(5, 7),
    }
    model = load(write_model(text, weights))
    infer_shapes(model)
    found = synaptic_work(model, ["a", "c"])
    assert found == {"a": 4 * 25 * 9, "c": 4 * 25 * 3 + 4 * 5 * 7 * 5}


def test_unknown_shape(write_model: Callable[..., Path]) -> None:
    text = """g (float[N,2,H,W] x) => (float[N,2,H,W] y) {
        a = Relu(x)
        y = Conv <pads = [1,1,1,1]> (a, w)
    }"""
    model = load(write_model(text, {"w": ones(2, 2, 3, 3)}))
    infer_shapes(model)
    with pytest.raises(ModelError, match=r"no known number of operations.*one --steps"):
        synaptic_work(model, ["a"])


def test_work_that_is_known_comes_without_the_rest(write_model: Callable[..., Path]) -> None:
    text = RESIDUAL.replace("float[N,2,6,6] x", "float[N,2,H,W] x")
    model = load(write_model(text, {"w3": ones(2, 2, 3, 3), "wy": ones(5, 2)}))
    infer_shapes(model)
    assert known_work(model, ["a", "c", "e"]) == {"e": 5 * 2}
    with pytest.raises(ModelError, match="no known number of operations"):
        synaptic_work(model, ["a", "c", "e"])
