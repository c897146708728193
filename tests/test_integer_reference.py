"""The exact reference of form `int8` against whole numbers added up in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass.integer_reference import NEAR_LEVEL, IntegerReference, Rounding
from graphpass.model import load
from graphpass_runtime.errors import ModelError

Write = Callable[..., Path]
RNG = np.random.default_rng(0)


def dequantised(layer: str) -> str:
    """A net of one layer on integers: what it rounds, and its output."""
    x, y = ("A, B, C, D", "A, E, F, G") if layer.startswith("Conv") else ("A, B", "A, C")
    return (
        f"net (float[{x}] x) => (float[{y}] y) {{"
        " q = QuantizeLinear (x, sx, zx) d = DequantizeLinear (q, sx, zx)"
        " w = DequantizeLinear <axis = AXIS> (qw, sw, zw)"
        " b = DequantizeLinear <axis = 0> (qb, sb, zb)"
        f" r = {layer} u = QuantizeLinear (r, sy, zy) y = DequantizeLinear (u, sy, zy) }}"
    )


def weights(shape: tuple[int, ...], channels: int, *, size: int = 127) -> dict[str, Any]:
    scale = RNG.uniform(0.001, 0.1, channels).astype(np.float32)
    return {
        "sx": np.float32(0.37),
        "zx": np.uint8(13),
        "qw": RNG.integers(-size, size + 1, shape).astype(np.int8),
        "sw": scale,
        "zw": np.zeros(channels, np.int8),
        "qb": RNG.integers(-(2**20), 2**20, channels).astype(np.int32),
        "sb": (scale * np.float32(0.37)).astype(np.float32),
        "zb": np.zeros(channels, np.int32),
        "sy": np.float32(11.0),
        "zy": np.uint8(100),
    }


def convolved(x: Any, w: Any, pads: tuple[int, ...], stride: int, dilation: int, group: int) -> Any:
    """Whole numbers, one position of the kernel at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [dilation * (k - 1) + 1 for k in w.shape[2:]]
    height, width = ((n - r) // stride + 1 for n, r in zip(x.shape[2:], reach, strict=True))
    x = x.reshape(len(x), group, -1, *x.shape[2:])
    w = w.reshape(group, -1, *w.shape[1:])
    total = np.zeros((len(x), group, w.shape[1], height, width), np.int64)
    for i in range(w.shape[3]):
        for j in range(w.shape[4]):
            rows = slice(i * dilation, i * dilation + stride * height, stride)
            columns = slice(j * dilation, j * dilation + stride * width, stride)
            part = x[:, :, :, rows, columns][:, :, :, :height, :width]
            total += np.einsum("ngchw,goc->ngohw", part, w[:, :, :, i, j])
    return total.reshape(len(x), -1, height, width)


CASES = [
    # input channels, output channels, kernel, pads, stride, dilation, group
    (3, 4, 3, (1, 1, 1, 1), 1, 1, 1),
    (4, 6, 3, (0, 1, 2, 1), 2, 1, 2),
    (5, 5, 3, (2, 2, 2, 2), 1, 2, 5),
    (700, 2, 5, (0, 0, 0, 0), 1, 1, 1),  # sums beyond 2^24: two digits
    (3000, 1, 3, (0, 0, 0, 0), 3, 1, 1),  # and beyond that: four
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("extreme", [False, True])
def test_convolution_is_exact(write_model: Write, case: Any, extreme: bool) -> None:
    inputs, outputs, kernel, pads, stride, dilation, group = case
    layer = (
        f"Conv <kernel_shape = [{kernel}, {kernel}], pads = {list(pads)}, group = {group},"
        f" strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}]> (d, w, b)"
    )
    arrays = weights((outputs, inputs // group, kernel, kernel), outputs)
    if extreme:
        arrays["qw"] = np.full_like(arrays["qw"], -127)
    path = write_model(dequantised(layer).replace("AXIS", "0"), arrays)
    held = RNG.integers(0, 256, (2, inputs, 6, 6)).astype(np.uint8)
    if extreme:
        held[:] = 255
    sums = convolved(
        held.astype(np.int64) - 13, arrays["qw"].astype(np.int64), pads, stride, dilation, group
    )
    step = arrays["sw"].astype(np.float64) * np.float64(arrays["sx"])
    bias = arrays["qb"] * arrays["sb"].astype(np.float64)
    expected = sums * step.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
    check(path, held, expected)


@pytest.mark.parametrize(("op", "transposed"), [("Gemm", 0), ("Gemm", 1), ("MatMul", 0)])
def test_products_of_matrices_are_exact(write_model: Write, op: str, transposed: int) -> None:
    options, bias = (f"<transB = {transposed}>", ", b") if op == "Gemm" else ("", "")
    shape = (7, 5000) if transposed else (5000, 7)
    arrays = weights(shape, 7)
    text = dequantised(f"{op} {options} (d, w{bias})").replace("AXIS", str(1 - transposed))
    held = RNG.integers(0, 256, (3, 5000)).astype(np.uint8)
    weight = arrays["qw"].astype(np.int64)
    sums = (held.astype(np.int64) - 13) @ (weight.T if transposed else weight)
    expected = sums * (arrays["sw"].astype(np.float64) * np.float64(arrays["sx"]))
    if bias:
        expected = expected + arrays["qb"] * arrays["sb"].astype(np.float64)
    check(write_model(text, arrays), held, expected)


def check(path: Path, held: Any, expected: Any) -> None:
    """The real tensor is the exact sum, rounded once to float32."""
    reference = IntegerReference(load(path), 1)
    assert reference.layers == 1
    assert [rounding.held for rounding in reference.roundings] == ["q", "u"]
    assert (reference.roundings[1].scale, reference.roundings[1].zero) == (11.0, 100)
    x = np.zeros(held.shape, np.float32)
    levels = {"q": held, "u": np.full(expected.shape, 101, np.uint8)}
    reals, outputs = reference.run({"x": x}, levels)
    np.testing.assert_array_equal(reals["q"], x)
    np.testing.assert_allclose(reals["u"], expected, rtol=2.0**-23, atol=0)
    # What follows a rounding reads the levels that were found, right or wrong.
    np.testing.assert_array_equal(outputs[0], np.full(expected.shape, 11.0, np.float32))


def test_sums_too_long_to_be_exact_are_refused(write_model: Write) -> None:
    arrays = weights((1, 40_000, 1, 1), 1)
    arrays["qw"] = np.full_like(arrays["qw"], 127)
    path = write_model(dequantised("Conv (d, w, b)").replace("AXIS", "0"), arrays)
    with pytest.raises(ModelError, match=r"Conv node 'r' adds up too many products"):
        IntegerReference(load(path))


def test_layer_whose_data_has_a_scale_for_each_channel_stays(write_model: Write) -> None:
    """No sum of its products is a whole number of steps."""
    arrays = weights((5, 7), 7)
    arrays |= {"sd": np.full(5, 0.37, np.float32), "zd": np.full(5, 13, np.uint8)}
    text = dequantised("MatMul (d, w)").replace("AXIS", "1")
    text = text.replace("d = DequantizeLinear (q, sx, zx)", "d = DequantizeLinear (q, sd, zd)")
    assert IntegerReference(load(write_model(text, arrays)), 1).layers == 0


def test_rounding_is_judged_by_its_distance_from_a_tie() -> None:
    rounding = Rounding("q", "r", 0.5, 10)
    real = np.array([0.0, 0.25, 0.25, 0.25, 0.2, 0.25, -90, 900], np.float32)
    held = np.array([10, 10, 11, 12, 11, 9, 0, 255], np.uint8)
    # A tie goes to 10 or 11; 12 and 9 are wrong there, and so is 11 below the middle.
    assert rounding.judge(real, held) == (1, 3)
    edge = np.array([0.25 + 0.4 * NEAR_LEVEL, 0.25 + 0.6 * NEAR_LEVEL], np.float32)
    assert rounding.judge(edge, np.array([10, 10], np.uint8)) == (1, 1)


def test_network_that_does_not_run_is_one_line(write_model: Write) -> None:
    path = write_model(
        "net (float[N, 2] x) => (float[2, 2] y) { y = MatMul (x, w) }",
        {"w": np.eye(2, dtype=np.float32)},
    )
    reference = IntegerReference(load(path))
    with pytest.raises(ModelError, match="ONNX Runtime fails while running it"):
        reference.run({"x": np.ones((3, 5), np.float32)}, {})
