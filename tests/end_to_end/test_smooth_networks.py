"""Networks of today's activations, built here with random weights: the error falls with T.

Inverted bottlenecks as in MobileNetV3 (HardSwish as PyTorch and as Paddle write it) and in
EfficientNet (SiLU), without squeeze-and-excite, and an MLP block with GELU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphpass import RefusedConversion, convert, verify

FORMS = ("counts", "counts-cpu", "matmul", "sorted")
Write = Callable[..., Path]

ACTIVATIONS = {
    "HardSwish": "{y} = HardSwish ({x})",
    "Add-Clip-Mul-Div": (
        "{y}a = Add ({x}, three) {y}b = Clip ({y}a, zero, six) {y}c = Mul ({x}, {y}b)"
        " {y} = Div ({y}c, six)"
    ),
    "SiLU": "{y}s = Sigmoid ({x}) {y} = Mul ({x}, {y}s)",
    "GELU": (
        "{y}a = Div ({x}, root) {y}b = Erf ({y}a) {y}c = Add ({y}b, one) {y}d = Mul ({x}, {y}c)"
        " {y} = Mul ({y}d, half)"
    ),
}
CONSTANTS = {"three": 3.0, "zero": 0.0, "six": 6.0, "root": 2.0**0.5, "one": 1.0, "half": 0.5}


def network(activation: str) -> tuple[str, dict[str, Any]]:
    """A stem, two inverted bottlenecks, the second with a residual sum, and a classifier."""
    rng, given, lines = np.random.default_rng(8), {}, []
    count = 0

    def conv(x: str, y: str, inputs: int, outputs: int, kernel: int = 1, group: int = 1) -> None:
        shape = (outputs, inputs // group, kernel, kernel)
        scale = 1.6 / np.sqrt(np.prod(shape[1:]))
        given[f"{y}_w"] = rng.normal(0, scale, shape)
        given[f"{y}_b"] = rng.normal(0, 0.2, outputs)
        pads = f"<group = {group}, pads = [{', '.join([str(kernel // 2)] * 4)}]>"
        lines.append(f"{y} = Conv {pads} ({x}, {y}_w, {y}_b)")

    def act(x: str) -> str:
        nonlocal count
        count += 1
        lines.append(ACTIVATIONS[activation].format(x=x, y=f"f{count}"))
        return f"f{count}"

    conv("x", "stem", 3, 8, 3)
    conv(act("stem"), "up1", 8, 16)
    conv(act("up1"), "dw1", 16, 16, 3, 16)
    conv(act("dw1"), "down1", 16, 8)
    conv("down1", "up2", 8, 16)
    conv(act("up2"), "dw2", 16, 16, 3, 16)
    conv(act("dw2"), "down2", 16, 8)
    lines.append("sum = Add (down1, down2)")
    conv("sum", "head", 8, 16)
    lines.append(f"pooled = GlobalAveragePool ({act('head')}) flat = Flatten (pooled)")
    given["fc"] = rng.normal(0, 0.3, (16, 10))
    lines.append("y = MatMul (flat, fc)")
    text = f"g (float[N,3,12,12] x) => (float[N,10] y) {{ {' '.join(lines)} }}"
    used = {name: value for name, value in CONSTANTS.items() if name in " ".join(lines)}
    weights = {name: np.asarray(value, np.float32) for name, value in (given | used).items()}
    return text, weights


def images(samples: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, (samples, 3, 12, 12)).astype(np.float32)


def outputs(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_falls_as_steps_grow(activation: str, write_model: Write, tmp_path: Path) -> None:
    ann = write_model(*network(activation), opset=17)
    data, x = [{"x": images(16, seed)} for seed in range(4)], images(32, 100)
    expected = outputs(ann, x)
    errors = {}
    for steps in (8, 32, 64):
        snn = tmp_path / f"{steps}.onnx"
        result = convert(ann, snn, steps=steps, data=data, form="counts")
        # All but the stem, as two trains each.
        names = [neuron.name for neuron in result.record.neurons]
        assert len(names) == 10
        assert sum(name.endswith("/inhibitory") for name in names) == 5
        error = outputs(snn, x) - expected
        errors[steps] = float(np.linalg.norm(error) / np.linalg.norm(expected))
    assert errors[64] < errors[32] < errors[8]
    assert errors[64] < 0.1


@pytest.mark.parametrize("activation", ["Add-Clip-Mul-Div", "SiLU"])
def test_every_form_is_the_same_network(
    activation: str, write_model: Write, tmp_path: Path
) -> None:
    ann = write_model(*network(activation), opset=17)
    data, stages = [{"x": images(8, 1)}], tmp_path / "stages"
    files = {}
    for form in FORMS:
        files[form] = tmp_path / f"{form}.onnx"
        convert(ann, files[form], steps=8, data=data, form=form, stages=stages)
    x = images(3, 9)
    three = {form: outputs(path, x) for form, path in files.items()}
    for form, path in files.items():
        np.testing.assert_allclose(three[form], three["counts"], rtol=1e-3, atol=1e-4)
        one = outputs(path, x[:1])
        np.testing.assert_allclose(one, three[form][:1], rtol=1e-3, atol=1e-4)
        for reference in (ann, stages / "3-calibrated.onnx", files["counts"], files["matmul"]):
            for strict in (False, True):
                found = verify(reference, path, [{"x": x}], strict=strict)
                assert found.equal, (form, reference.name, found)
                assert found.layers == 10


def test_a_pool_behind_two_trains_is_refused(write_model: Write, tmp_path: Path) -> None:
    text = (
        "g (float[N,3,12,12] x) => (float[N,3,6,6] y) { a = Conv (x, w) r = Relu (a)"
        " b = Conv (r, w) s = Sigmoid (b) m = Mul (b, s)"
        " p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (m) c = Conv (p, w) y = Relu (c) }"
    )
    weight = np.random.default_rng(0).normal(0, 0.5, (3, 3, 1, 1)).astype(np.float32)
    ann, snn = write_model(text, {"w": weight}, opset=17), tmp_path / "snn.onnx"
    with pytest.raises(
        RefusedConversion, match=r"MaxPool.*falls and rises, whose two trains.*islands"
    ):
        convert(ann, snn, steps=8, data=[{"x": images(4, 1)}])
    assert not snn.exists()


def test_int8_is_close(write_model: Write, tmp_path: Path) -> None:
    ann = write_model(*network("SiLU"), opset=17)
    x = images(32, 100)
    expected = outputs(ann, x)
    errors: dict[str, list[float]] = {"counts": [], "int8": []}
    for form, found in errors.items():
        for draw in range(3):  # how weights of 8 bits round is chance
            data = [{"x": images(16, 50 * draw + seed)} for seed in range(4)]
            convert(ann, tmp_path / "snn.onnx", steps=32, data=data, form=form)
            error = outputs(tmp_path / "snn.onnx", x) - expected
            found.append(float(np.linalg.norm(error) / np.linalg.norm(expected)))
    assert np.mean(errors["counts"]) < np.mean(errors["int8"]) < 0.04


GATED = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
    a = Conv (x, k)
    r = Relu (a)
    b = Conv (r, k)
    s = Sigmoid (b)
    silu = Mul (b, s)
    pooled = GlobalAveragePool (silu)
    c = Conv (pooled, k)
    gate = Sigmoid (c)
    scaled = Mul (silu, gate)
    d = Conv (scaled, k)
    last = Relu (d)
    y = Conv (last, k)
}"""


def test_a_gate_is_refused_by_name(write_model: Write, tmp_path: Path) -> None:
    k = np.random.default_rng(0).normal(0, 1, (3, 3, 1, 1)).astype(np.float32)
    data = [{"x": np.zeros((1, 3, 8, 8), np.float32)}]
    with pytest.raises(RefusedConversion, match=r"'(gate|scaled)'") as caught:
        convert(write_model(GATED, {"k": k}), tmp_path / "snn.onnx", steps=4, data=data)
    verdicts = {a.name: a.status for a in caught.value.plan.activations}
    assert verdicts["silu"] == "converted"
    assert not (tmp_path / "snn.onnx").exists()
