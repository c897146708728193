"""float16 inside: a close network with the same interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphpass import Session, convert
from graphpass.model import from_proto, infer_shapes, load, to_bytes, to_proto
from graphpass.passes.halve_precision import HalvePrecision
from graphpass_runtime.errors import ModelError, OptionError
from graphpass_runtime.metadata import FileRecord, Stage

RESIDUAL = """
g (float[N,3,8,8] x) => (float[N,5] y) {
    c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
    a1 = Relu(c1)
    c2 = Conv <pads = [1,1,1,1]> (a1, w2, b2)
    a2 = Relu(c2)
    c3 = Conv <pads = [1,1,1,1]> (a2, w3, b3)
    sum = Add(c3, a1)
    a3 = Relu(sum)
    pooled = GlobalAveragePool(a3)
    flat = Flatten(pooled)
    y = Gemm(flat, w4, b4)
}
"""

Write = Callable[..., Path]


def _weights(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3), "w3": (6, 6, 3, 3), "w4": (6, 5)}
    weights = {
        name: rng.normal(0, 1.6 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    biases = {"b1": 6, "b2": 6, "b3": 6, "b4": 5}
    return weights | {
        name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in biases.items()
    }


def _images(count: int, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (count, 3, 8, 8)) + rng.normal(0, 2, (count, 3, 1, 1))).astype(
        np.float32
    )


@pytest.fixture
def forms(write_model: Write, tmp_path: Path) -> Callable[..., tuple[Session, Session]]:
    """The residual network in fp32 and in fp16."""

    def make(steps: int, weights: dict[str, Any] | None = None, opset: int = 17) -> Any:
        ann = write_model(RESIDUAL, weights or _weights(), opset=opset)
        sessions = []
        for precision in ("fp32", "fp16"):
            path = tmp_path / f"{precision}.onnx"
            convert(
                ann,
                path,
                steps=steps,
                data=[{"x": _images(64, 2)}],
                calibrate="none",
                form="counts",
                precision=precision,
            )
            onnx.checker.check_model(onnx.load(path), full_check=True)
            sessions.append(Session(path, provider="cpu"))
        return tuple(sessions)

    return make


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 21])
@pytest.mark.parametrize("steps", [4, 32])
def test_close_to_fp32_at_every_batch_size(
    forms: Callable[..., Any], opset: int, steps: int
) -> None:
    full, half = forms(steps, opset=opset)
    assert half.record.precision == "fp16"
    assert full.record.precision is None
    assert half.inputs == full.inputs
    assert half.outputs == full.outputs
    for batch in (1, 200, 3):
        x = _images(batch)
        left, right = full.run({"x": x})["y"], half.run({"x": x})["y"]
        assert right.dtype == np.float32
        assert np.linalg.norm(left - right) <= 0.05 * np.linalg.norm(left)
        assert (left.argmax(axis=1) == right.argmax(axis=1)).mean() >= 0.97


def test_counts_are_whole_and_within_one_of_fp32(forms: Callable[..., Any]) -> None:
    full, half = forms(32)
    x = _images(50)
    left, right = full.spike_counts({"x": x}), half.spike_counts({"x": x})
    assert list(left) == list(right)
    for name in left:
        difference = np.abs(left[name] - right[name])
        assert right[name].max() <= 32
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.05


def test_nothing_inside_is_float32(forms: Callable[..., Any], tmp_path: Path) -> None:
    forms(8)
    proto = onnx.load(tmp_path / "fp16.onnx")
    assert {w.data_type for w in proto.graph.initializer} <= {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT64,
    }
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert onnx.TensorProto.FLOAT not in kinds.values()
    assert sum(node.op_type == "Cast" for node in proto.graph.node) == 2
    small, large = ((tmp_path / f"{p}.onnx").stat().st_size for p in ("fp16", "fp32"))
    assert small < large


def test_second_run_finds_nothing_and_the_file_loads_again(
    forms: Callable[..., Any], tmp_path: Path
) -> None:
    forms(8)
    model = load(tmp_path / "fp16.onnx")
    content = to_bytes(model)
    assert not HalvePrecision()(model).modified
    assert to_bytes(model) == content


def test_channel_that_never_fires_is_kept_finite(forms: Callable[..., Any]) -> None:
    # Its threshold is next to nothing, so the weights in units of it are beyond float16.
    weights = _weights()
    weights["w2"][1] = 1e-3
    weights["b2"][1] = -100
    full, half = forms(32, weights)
    assert half.record.calibration["saturated"] > 0
    x = np.concatenate([_images(20), np.zeros((1, 3, 8, 8), np.float32)])
    left, right = full.run({"x": x})["y"], half.run({"x": x})["y"]
    assert np.isfinite(right).all()
    assert np.linalg.norm(left - right) <= 0.05 * np.linalg.norm(left)
    counts = half.spike_counts({"x": x})["a2"]
    assert (counts[:, 1] == 0).all()


def _halved(text: str, opset: int = 17) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    model = from_proto(proto, name="test.onnx")
    model.record = FileRecord(Stage.SPIKING, steps=4)
    infer_shapes(model)
    HalvePrecision()(model)
    return to_proto(model)


def test_scales_of_resize_stay_float32(bare_run: Callable[..., Any]) -> None:
    text = (
        "g (float[N,1,2,2] x) => (float[N,1,4,4] y) <float[4] s = {1, 1, 2, 2}, float two = {2}> "
        '{ z = Mul(x, two) y = Resize <mode = "nearest"> (z, , s) }'
    )
    proto = _halved(text)
    kinds = {w.name: w.data_type for w in proto.graph.initializer}
    assert kinds == {"s": onnx.TensorProto.FLOAT, "two/fp16": onnx.TensorProto.FLOAT16}
    x = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    y = bare_run(proto.SerializeToString(), {"x": x})["y"]
    np.testing.assert_array_equal(y, np.repeat(np.repeat(2 * x, 2, axis=2), 2, axis=3))


def test_types_named_by_operators_are_changed(bare_run: Callable[..., Any]) -> None:
    text = (
        "g (float[N,2] x, int64[N,2] i) => (float[N,2] y, float[N,2] r) "
        "{ f = Cast <to = 1> (i) r = Add(x, f) y = Relu(r) }"
    )
    proto = _halved(text)
    feeds = {"x": np.full((3, 2), -1.5, np.float32), "i": np.arange(6).reshape(3, 2)}
    results = bare_run(proto.SerializeToString(), feeds)
    np.testing.assert_array_equal(results["r"], feeds["x"] + feeds["i"])
    np.testing.assert_array_equal(results["y"], np.maximum(results["r"], 0))
    assert results["r"].dtype == np.float32


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[N,1,2,2] x, float[4] s) => (float[N,1,P,Q] y) "
            '{ y = Resize <mode = "nearest"> (x, , s) }',
            "computes its scales; use --precision fp32",
        ),
        (
            "g (float x) => (float[M] y) <float a = {0}, float b = {1}> { y = Range(a, x, b) }",
            "an operator takes no float16",
        ),
    ],
)
def test_what_cannot_be_halved_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"test.onnx: cannot be written in fp16: .*{reason}"):
        _halved(text)


def test_only_counts_come_in_fp16(write_model: Write, tmp_path: Path) -> None:
    ann = write_model(RESIDUAL, _weights())
    with pytest.raises(OptionError, match="'matmul' is written in fp32 only"):
        convert(ann, tmp_path / "snn.onnx", steps=4, precision="fp16")
    with pytest.raises(OptionError, match="precision 'int4' is unknown; use fp32 or fp16"):
        convert(ann, tmp_path / "snn.onnx", steps=4, precision="int4")
    assert not (tmp_path / "snn.onnx").exists()
