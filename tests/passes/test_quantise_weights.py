"""Form `int8` against an integer network evaluated in numpy, and what ONNX Runtime makes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime as ort
import pytest

from graphpass import Session, convert, verify
from graphpass.grids import weight_limit
from graphpass.quantised_verification import QuantisedVerification
from graphpass_runtime.errors import DataError, ModelError, OptionError

Write = Callable[..., Path]
RNG = np.random.default_rng(0)

NET = """
    ann (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        stem = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0, b0)
        a = Relu (stem)
        c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r1, w2, b2)
        sum = Add (c2, r1)
        r2 = Relu (sum)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        linear = Conv <kernel_shape = [1, 1]> (p, w3, b3)
        c4 = Conv <kernel_shape = [1, 1]> (linear, w4, b4)
        r4 = Relu (c4)
        joined = Concat <axis = 1> (r4, p)
        c5 = Conv <kernel_shape = [1, 1]> (joined, w5, b5)
        r5 = Relu (c5)
        g = GlobalAveragePool (r5)
        f = Flatten (g)
        y = Gemm <transB = 1> (f, w6, b6)
    }
"""
SHAPES = [
    (6, 3, 3, 3),
    (6, 6, 3, 3),
    (6, 6, 3, 3),
    (4, 6, 1, 1),
    (6, 4, 1, 1),
    (6, 12, 1, 1),
    (5, 6),
]


def weights() -> dict[str, Any]:
    arrays = {}
    for index, shape in enumerate(SHAPES):
        fan = np.prod(shape[1:])
        arrays[f"w{index}"] = RNG.normal(size=shape, scale=(2 / fan) ** 0.5).astype(np.float32)
        arrays[f"b{index}"] = RNG.normal(size=shape[0], scale=0.1).astype(np.float32)
    return arrays


@pytest.fixture
def made(write_model: Write, tmp_path: Path) -> Callable[..., Path]:
    """Convert `NET` to int8 with random data."""

    def make(steps: int, *, opset: int = 17, form: str = "int8", data: bool = True) -> Path:
        ann, out = write_model(NET, weights(), opset=opset), tmp_path / f"{form}.onnx"
        images = np.random.default_rng(1).normal(size=(20, 3, 8, 8)).astype(np.float32)
        source = [{"x": images}] if data else None
        rule = "none"
        convert(ann, out, steps=steps, form=form, data=source, calibrate=rule, stages=tmp_path)
        return out

    return make


def images(count: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(2).normal(size=(count, 3, 8, 8)).astype(np.float32)}


def inputs_of(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    proto = onnx.load(path)
    return proto, {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def convolve(x: Any, w: Any, pads: list[int], group: int) -> Any:
    """Whole numbers in, whole numbers out."""
    size = w.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    if group > 1:
        return np.einsum("nchwij,cij->nchw", windows, w[:, 0])
    return np.einsum("nchwij,ocij->nohw", windows, w)


class IntegerNetwork:
    """The file as integers: sums of products are exact, and scaled once, in float32."""

    def __init__(self, path: Path) -> None:
        proto, self.values = inputs_of(path)
        self.nodes = list(proto.graph.node)
        self.near: dict[str, Any] = {}  # how far from a tie a rounding was

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        self.values |= feeds
        for node in self.nodes:
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            read = [self.values[name] for name in node.input]
            self.values[node.output[0]] = getattr(self, node.op_type)(attrs, node.output[0], *read)
        return self.values

    def DequantizeLinear(self, attrs: Any, name: str, q: Any, scale: Any, zero: Any) -> Any:  # noqa: N802
        return q.astype(np.int64) - zero.astype(np.int64).ravel()[0], scale

    def QuantizeLinear(self, attrs: Any, name: str, real: Any, scale: Any, zero: Any) -> Any:  # noqa: N802
        if isinstance(real, tuple):
            level = real[0].astype(np.float32) * (real[1] / scale)
        else:
            level = real / np.float64(scale)
            # ONNX Runtime's sums and averages are not of this order.
            self.near[name] = np.abs(level - np.floor(level) - 0.5)
        return np.clip(np.rint(level) + int(zero), 0, 255).astype(np.uint8)

    @staticmethod
    def real(value: Any) -> Any:
        return value[0] * value[1].astype(np.float64) if isinstance(value, tuple) else value

    def Conv(self, attrs: Any, name: str, x: Any, w: Any, b: Any) -> Any:  # noqa: N802
        sums = convolve(x[0], w[0], attrs.get("pads", [0] * 4), attrs.get("group", 1))
        column = b[0].reshape(-1, 1, 1)
        return sums + column, x[1] * w[1].reshape(-1, 1, 1)

    def Gemm(self, attrs: Any, name: str, x: Any, w: Any, b: Any) -> Any:  # noqa: N802
        return (x[0] @ w[0].T + b[0]) * (x[1] * w[1])

    def Add(self, attrs: Any, name: str, a: Any, b: Any) -> Any:  # noqa: N802
        return self.real(a) + self.real(b)

    def Relu(self, attrs: Any, name: str, x: Any) -> Any:  # noqa: N802
        return np.maximum(self.real(x), 0)

    def Clip(self, attrs: Any, name: str, x: Any, low: Any, high: Any) -> Any:  # noqa: N802
        return np.clip(x, low, high)

    def MaxPool(self, attrs: Any, name: str, x: Any) -> Any:  # noqa: N802
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))

    def Concat(self, attrs: Any, name: str, *parts: Any) -> Any:  # noqa: N802
        return np.concatenate(parts, axis=attrs["axis"])

    def GlobalAveragePool(self, attrs: Any, name: str, x: Any) -> Any:  # noqa: N802
        return self.real(x).mean(axis=(2, 3), keepdims=True)

    def Flatten(self, attrs: Any, name: str, x: Any) -> Any:  # noqa: N802
        return x.reshape(len(x), -1)


@pytest.mark.parametrize("steps", [1, 4, 8, 32, 127, 128, 200, 255])
def test_ort_computes_the_integer_network(made: Callable[..., Path], steps: int) -> None:
    path = made(steps)
    batch = images(16)
    names = [neuron.spikes for neuron in Session(path).record.neurons]
    reference = IntegerNetwork(path)
    expected = reference.run(batch)
    found = Session(path, extra_outputs=names).run(batch)
    for name in names:
        assert found[name].dtype == np.uint8
        assert found[name].max() <= steps
    # A rounding at a tie may fall either way, and everything behind it with it.
    tied = np.zeros(16, bool)
    for near in reference.near.values():
        tied |= near.reshape(16, -1).min(axis=1) < 1e-5
    assert tied.sum() < 12
    for name in names:
        np.testing.assert_array_equal(found[name][~tied], expected[name][~tied])
    np.testing.assert_allclose(found["y"][~tied], expected["y"][~tied], rtol=1e-5, atol=1e-5)


def optimised(path: Path, folder: Path) -> list[onnx.NodeProto]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(onnx.load(folder / "optimised.onnx").graph.node)


def test_ort_runs_integer_kernels_only(made: Callable[..., Path], tmp_path: Path) -> None:
    ops = Counter(node.op_type for node in optimised(made(8), tmp_path))
    assert ops["QLinearConv"] == 7  # six layers, and the skip connection's factors
    assert ops["QLinearAdd"] == ops["QLinearGlobalAveragePool"] == ops["QGemm"] == 1
    assert ops["Conv"] == ops["Gemm"] == ops["Add"] == ops["Relu"] == 0
    assert ops["QuantizeLinear"] == 1  # the input


def test_the_file_is_standard_onnx(made: Callable[..., Path]) -> None:
    proto, _ = inputs_of(made(8))
    onnx.checker.check_model(proto, full_check=True)
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}


@pytest.mark.parametrize(
    ("top", "largest"), [(8, 127), (127, 127), (129, 127), (200, 81), (255, 64)]
)
def test_weights_leave_room_for_16_bit_sums(top: int, largest: int) -> None:
    assert weight_limit(top) == largest
    assert 2 * top * largest <= 32767


@pytest.mark.parametrize("steps", [8, 129, 130, 200, 255])
def test_weights_keep_within_their_limit(made: Callable[..., Path], steps: int) -> None:
    _, arrays = inputs_of(made(steps))
    after_counts = [a for k, a in arrays.items() if k.startswith("r5/charge/int8") and a.ndim == 4]
    assert [int(np.abs(a.astype(int)).max()) for a in after_counts] == [weight_limit(steps)]


TIES = """
    ann (float[N, 2, 1, 1] x) => (float[N, 2, 1, 1] y) {
        c = Conv (x, one)
        a = Clip (c, low, high)
        d = Conv (a, half)
        y = Clip (d, low, high)
    }
"""


@pytest.mark.parametrize("steps", [4, 127])
def test_half_rounds_up(write_model: Write, tmp_path: Path, steps: int) -> None:
    """Counts 0..T halved: every odd one is an exact tie."""
    eye = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    ends = {"low": np.float32(0), "high": np.float32(steps)}
    ann = write_model(TIES, {"one": eye, "half": eye * np.float32(127 / 254), **ends})
    out = tmp_path / "snn.onnx"
    convert(ann, out, steps=steps, form="int8", calibrate="none", first_activation="spiking")
    whole = np.arange(steps + 1, dtype=np.float32)
    x = np.stack([whole, whole[::-1]], axis=1).reshape(-1, 2, 1, 1)
    counts = Session(out).spike_counts({"x": x})
    first, second = (counts[name] for name in ("a", "y"))
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, np.floor(x / 2 + 0.5))


def test_more_steps_than_a_byte_holds_are_refused(made: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match="256 time-steps do not fit into form 'int8'"):
        made(256)


def test_an_old_opset_is_refused(made: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="opset 12 is too old for form 'int8'"):
        made(8, opset=12)


def test_ranges_are_kept_in_the_stage_file(made: Callable[..., Path], tmp_path: Path) -> None:
    path = made(8)
    again = tmp_path / "again.onnx"
    convert(tmp_path / "3-calibrated.onnx", again, form="int8")
    assert again.read_bytes() == path.read_bytes()
    assert json.loads(json.dumps(dict(Session(again).record.ranges)))


def test_unknown_ranges_ask_for_data(made: Callable[..., Path], tmp_path: Path) -> None:
    made(8, form="counts")
    with pytest.raises(DataError, match="calibration data is needed for the ranges of"):
        convert(tmp_path / "3-calibrated.onnx", tmp_path / "new.onnx", form="int8")


DEPTHWISE = """
    ann (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {
        a = Relu (x)
        c1 = Conv <kernel_shape = [1, 1]> (a, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (r1, w2, b2)
        y = Relu (c2)
    }
"""


def test_rounded_weights_leave_the_mean_where_it_is(write_model: Write, tmp_path: Path) -> None:
    """The bias makes up for what rounding nine weights of a channel does on average."""
    rng = np.random.default_rng(3)
    arrays = {
        "w1": rng.uniform(0.1, 1, (8, 8, 1, 1)).astype(np.float32),
        "w2": rng.normal(0.3, 1, (8, 1, 3, 3)).astype(np.float32),
        "b1": np.zeros(8, np.float32),
        "b2": rng.normal(0, 0.1, 8).astype(np.float32),
    }
    ann = write_model(DEPTHWISE, arrays)
    x = {"x": rng.uniform(0, 1, (64, 8, 6, 6)).astype(np.float32)}
    snn, stage = tmp_path / "snn.onnx", tmp_path / "3-calibrated.onnx"
    common = {"steps": 64, "data": [x], "calibrate": "none"}
    convert(ann, snn, form="int8", stages=tmp_path, **common)
    convert(stage, tmp_path / "counts.onnx", form="counts")
    proto = onnx.load(stage)
    kept = [entry for entry in proto.metadata_props if entry.key != "graphpass.means"]
    assert len(kept) == len(proto.metadata_props) - 1
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    onnx.save(proto, tmp_path / "without.onnx")
    convert(tmp_path / "without.onnx", tmp_path / "biased.onnx", form="int8")

    def offsets(path: Path) -> Any:
        ours, theirs = (
            Session(each).spike_counts(x)["y"] for each in (path, tmp_path / "counts.onnx")
        )
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # no padding
        firing = theirs[inner].mean(axis=(0, 2, 3)) > 1
        return (ours - theirs)[inner].mean(axis=(0, 2, 3))[firing]

    biased, corrected = offsets(tmp_path / "biased.onnx"), offsets(snn)
    assert len(biased) >= 4
    assert np.abs(biased).max() > 0.1
    # What is left is the rounding of the bias itself, at most half a step of the weights.
    assert np.linalg.norm(corrected) < 0.5 * np.linalg.norm(biased)


def test_means_that_are_no_numbers_are_refused(made: Callable[..., Path], tmp_path: Path) -> None:
    made(8)
    proto = onnx.load(tmp_path / "3-calibrated.onnx")
    entry = next(e for e in proto.metadata_props if e.key == "graphpass.means")
    entry.value = '{"x":[NaN,0,0]}'
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=r"metadata is damaged.*not finite"):
        convert(tmp_path / "bad.onnx", tmp_path / "new.onnx", form="int8")


@pytest.mark.parametrize("steps", [1, 32, 255])
def test_verify_judges_it_by_its_integers(
    made: Callable[..., Path], tmp_path: Path, steps: int
) -> None:
    path = made(steps)
    result = verify(tmp_path / "3-calibrated.onnx", path, [images(8)])
    assert isinstance(result, QuantisedVerification)
    assert result.equal
    assert (result.level_wrong, result.changed) == (0, ())
    assert result.integer_layers == 8


def test_int8_is_close_to_counts(made: Callable[..., Path], tmp_path: Path) -> None:
    path, counts = made(32), tmp_path / "counts.onnx"
    convert(tmp_path / "3-calibrated.onnx", counts, form="counts")
    batch = images(32)
    close, same = Session(path).run(batch)["y"], Session(counts).run(batch)["y"]
    assert np.abs(close - same).max() < 0.15 * np.ptp(same)
