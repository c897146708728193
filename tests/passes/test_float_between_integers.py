"""Form `int8`: what ONNX Runtime must compute in float32, though integers stand around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphpass import Session, convert, verify

Write = Callable[..., Path]


APART = """
    ann (float[N, 3, 8] x) => (float[N, 2] y) {
        stem = Conv <kernel_shape = [1]> (x, w0)
        a = Relu (stem)
        c1 = Conv <kernel_shape = [1]> (a, w1)
        r1 = Relu (c1)
        c2 = LAYER <kernel_shape = [1]> (r1, w2)
        r2 = Relu (c2)
        g = GlobalAveragePool (r2)
        f = Flatten (g)
        y = MatMul (f, w3)
    }
"""


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
def test_float_layers_between_integers_stay_float(
    layer: str, write_model: Write, tmp_path: Path
) -> None:
    """ONNX Runtime would round their weights by one scale, a millionth of which is lost."""
    rng = np.random.default_rng(3)
    shapes = {"w0": (3, 3, 1), "w1": (3, 3, 1), "w2": (3, 3, 1), "w3": (3, 2)}
    arrays = {k: rng.uniform(0.1, 1.0, shape).astype(np.float32) for k, shape in shapes.items()}
    column = (0, slice(None)) if layer == "Conv" else (slice(None), 0)
    arrays["w2"][column] *= -1e6  # a channel that never fires: a tiny threshold, a huge gain
    ann, snn = write_model(APART.replace("LAYER", layer), arrays), tmp_path / "snn.onnx"
    batch = {"x": rng.uniform(size=(16, 3, 8)).astype(np.float32)}
    convert(ann, snn, steps=8, form="int8", data=[batch], calibrate="none")
    result = verify(ann, snn, [batch])
    assert result.equal, result
    spikes = Session(snn).spike_counts(batch)["r2"]
    assert (spikes[:, 1:] > 0).any()


def test_average_of_scales_too_far_apart_for_a_kernel(write_model: Write, tmp_path: Path) -> None:
    """ONNX Runtime refuses to run its kernel for averages then."""
    rng = np.random.default_rng(0)
    text = """
        ann (float[N, 3, 6, 6] x) => (float[N, 3] y) {
            stem = Conv (x, k1) a = Relu (stem) b = Conv (a, k2) r = Relu (b)
            c = Conv (r, k3, bias) m = GlobalAveragePool (c) g = Relu (m)
            f = Flatten (g) y = MatMul (f, w)
        }
    """
    arrays = {
        **{f"k{i}": rng.normal(0, 0.5, (4, n, 1, 1)) for i, n in ((1, 3), (2, 4), (3, 4))},
        "bias": np.array([-3e7, 0.1, 0.2, 0.3]),  # the widest span, of a channel that is silent
        "w": rng.normal(0, 0.5, (4, 3)),
    }
    ann = write_model(text, {name: array.astype(np.float32) for name, array in arrays.items()})
    data = [{"x": rng.normal(0, 1, (8, 3, 6, 6)).astype(np.float32)}]
    convert(ann, tmp_path / "snn.onnx", steps=8, form="int8", data=data, calibrate="none")
    assert verify(ann, tmp_path / "snn.onnx", data).equal


def test_global_max_pool_computes_in_float(write_model: Write, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ann = write_model(
        "g (float[N, 2, 6, 6] x) => (float[N, 3] y) {"
        " a = Conv (x, k) r = Relu (a) b = Conv (r, k2) s = Relu (b)"
        " p = GlobalMaxPool (s) f = Flatten (p) y = MatMul (f, w) }",
        {
            "k": rng.normal(0, 0.5, (4, 2, 3, 3)).astype(np.float32),
            "k2": rng.normal(0, 0.5, (4, 4, 3, 3)).astype(np.float32),
            "w": rng.normal(0, 0.5, (4, 3)).astype(np.float32),
        },
    )
    data = [{"x": rng.normal(0, 1, (8, 2, 6, 6)).astype(np.float32)}]
    convert(ann, tmp_path / "snn.onnx", steps=8, data=data, form="int8")
    assert verify(ann, tmp_path / "snn.onnx", data).equal
