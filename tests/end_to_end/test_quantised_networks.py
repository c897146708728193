"""Networks that are quantised already: the SNN at their own number of levels is the same network.

Steps are powers of two and weights dyadic, so that currents lie on ties as often as beside them
and float32 sums are exact: outputs must be equal, not close.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

import graphpass_models
from graphpass import Session, convert, inspect, verify
from graphpass.forms import FORMS
from graphpass_models.digits import Digits
from graphpass_runtime.cpu import saturates
from graphpass_runtime.errors import DataError
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.neuron import Carrier, Ties

SAME = [name for name, form in FORMS.items() if form.same]
LEVELS = 15


def pair(source: str, output: str, zero: str = "z", step: str = "s") -> str:
    """A quantiser of 15 levels, as a framework writes one that has fewer than its type."""
    return (
        f"{output}_q = QuantizeLinear ({source}, {step}, {zero})"
        f" {output}_c = Clip ({output}_q, z, top)"
        f" {output} = DequantizeLinear ({output}_c, {step}, {zero}) "
    )


CONSTANTS = (
    "float s = {0.5}, float s2 = {1.0}, float si = {0.5}, uint8 z = {0},"
    " uint8 top = {15}, uint8 even = {8}, uint8 odd = {7}, uint8 middle = {128},"
    " float ws = {0.125}, int8 wz = {0}"
)


def residual(zero: str) -> str:
    """As ONNX Runtime's static quantisation writes it: the branch is rounded before the sum."""
    return (
        f"g (float[N,2,4,4] x) => (float[N,2,4,4] y) <{CONSTANTS}> {{"
        " i_q = QuantizeLinear (x, si, middle) i = DequantizeLinear (i_q, si, middle)"
        " k1 = DequantizeLinear (w1, ws, wz) k2 = DequantizeLinear (w2, ws, wz)"
        " a = Conv <pads = [1,1,1,1]> (i, k1, b1) " + pair("a", "r")
        + " b = Conv <pads = [1,1,1,1]> (r, k2, b1) " + pair("b", "c", zero)
        + " d = Add (c, r) " + pair("d", "e", step="s2")
        + " m = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (e) " + pair("m", "n", step="s2")
        + " y = Conv <pads = [1,1,1,1]> (n, k2) }"
    )  # fmt: skip


@pytest.fixture
def network(write_model: Callable[..., Path]) -> Callable[..., Path]:
    """Write a network with random int8 weights."""

    def write(text: str, opset: int = 17) -> Path:
        rng = np.random.default_rng(3)
        weights = {n: rng.integers(-6, 7, (2, 2, 3, 3)).astype(np.int8) for n in ("w1", "w2")}
        bias = np.array([0.25, 2.0], np.float32)
        return write_model(text, {**weights, "b1": bias}, opset=opset)

    return write


def as_written(path: Path, x: Any) -> Any:
    """Outputs without ONNX Runtime's optimiser, which joins quantisers to integer kernels."""
    return run(path, x, optimised=False)


def run(path: Path, x: Any, *, optimised: bool) -> Any:
    """Outputs for an input."""
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def inputs(samples: int) -> Any:
    """On the grid of the input, far beyond the ends of the grids behind it."""
    return (np.random.default_rng(samples).integers(-40, 41, (samples, 2, 4, 4)) / 8).astype("f4")


@pytest.mark.parametrize("zero", ["even", "odd"])
@pytest.mark.parametrize("form", SAME)
def test_same_outputs_in_every_form(
    network: Any, tmp_path: Path, bare_run: Any, form: str, zero: str
) -> None:
    ann, snn = network(residual(zero)), tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=LEVELS, form=form)
    assert [a.status for a in result.activations] == ["converted"] * 3
    assert {n.ties for n in result.record.neurons} == {Ties.HALF_EVEN}
    assert {n.trained_levels for n in result.record.neurons} == {LEVELS}
    for samples in (1, 3, 8):
        x = inputs(samples)
        expected = as_written(ann, x)
        assert len(np.unique(expected)) > 20
        # A mean over 15 steps is not exact; a count that differs would be an error of 1/16.
        atol = 1e-5 if FORMS[form].carrier is Carrier.TRAIN else 0.0
        np.testing.assert_allclose(bare_run(snn, {"x": x})["y"], expected, rtol=0, atol=atol)


def test_the_network_above_has_ties(network: Any, tmp_path: Path) -> None:
    convert(network(residual("odd")), tmp_path / "snn.onnx", steps=LEVELS, stages=tmp_path)
    proto = onnx.load(tmp_path / "3-calibrated.onnx")
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    names = [neuron.potential for neuron in record.neurons]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for u in session.run(names, {"x": inputs(8)}):
        inside = u[(u > 0) & (u < LEVELS)]
        assert np.mean(inside % 1 == 0.5) > 0.1
        assert len(np.unique(np.rint(inside))) > 5


@pytest.mark.parametrize("form", SAME)
@pytest.mark.parametrize("strict", [False, True])
def test_verify_finds_no_difference(network: Any, tmp_path: Path, form: str, strict: bool) -> None:
    ann, snn = network(residual("odd")), tmp_path / "snn.onnx"
    convert(ann, snn, steps=LEVELS, form=form, stages=tmp_path)
    for reference in (ann, tmp_path / "3-calibrated.onnx"):
        found = verify(reference, snn, [{"x": inputs(8)}], strict=strict)
        assert found.equal
        assert found.origin_near_tie == found.downstream == 0
        assert found.max_abs_diff < 1e-5


@pytest.mark.parametrize("population", [1, None])
def test_other_numbers_of_steps_are_calibrated(
    network: Any, tmp_path: Path, population: int | None
) -> None:
    ann, snn = network(residual("odd")), tmp_path / "snn.onnx"
    options = {"data": [{"x": inputs(32)}], "rounded_currents": "spike", "population": population}
    result = convert(ann, snn, steps=8, form="counts", **options)
    assert {n.firing_steps for n in result.record.neurons} == {8}
    # Two neurons have 16 levels, one more than the file.
    assert ("1 rounded currents have 8 levels" in (result.advice() or "")) == (population == 1)
    x = inputs(64)
    session = onnxruntime.InferenceSession(str(snn))
    error = session.run(None, {"x": x})[0] - as_written(ann, x)
    assert np.sqrt(np.mean(error**2) / np.mean(as_written(ann, x) ** 2)) < 0.25


@pytest.mark.parametrize("form", SAME)
def test_layers_with_other_numbers_of_levels(
    network: Any, tmp_path: Path, bare_run: Any, form: str
) -> None:
    text = (
        f"g (float[N,2,4,4] x) => (float[N,2,4,4] y) <{CONSTANTS}, uint8 three = {{3}}> {{"
        " i_q = QuantizeLinear (x, si, middle) i = DequantizeLinear (i_q, si, middle)"
        " k1 = DequantizeLinear (w1, ws, wz) k2 = DequantizeLinear (w2, ws, wz)"
        " a = Conv <pads = [1,1,1,1]> (i, k1, b1) " + pair("a", "r").replace("top", "three")
        + " b = Conv <pads = [1,1,1,1]> (r, k2, b1) " + pair("b", "c", "odd")
        + " d = Add (c, r) " + pair("d", "e", step="s2")
        + " m = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (e)"
        + " y = Conv <pads = [1,1,1,1]> (m, k2) }"
    )  # fmt: skip
    ann, snn = network(text), tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=LEVELS, form=form, stages=tmp_path)
    assert [n.levels for n in result.record.neurons] == [3, LEVELS, LEVELS]
    atol = 1e-5 if FORMS[form].carrier is Carrier.TRAIN else 0.0
    for samples in (1, 3, 8):
        x = inputs(samples)
        expected = as_written(ann, x)
        assert len(np.unique(expected)) > 20
        np.testing.assert_allclose(bare_run(snn, {"x": x})["y"], expected, rtol=0, atol=atol)
    for reference in (ann, tmp_path / "3-calibrated.onnx"):
        assert verify(reference, snn, [{"x": inputs(8)}], strict=True).equal
    with pytest.raises(DataError, match=r"or --steps 15, which is lossless, or --calibrate none"):
        convert(ann, snn, steps=8, form=form)


@pytest.mark.parametrize("op", ["HardSwish", "LeakyRelu <alpha = 0.1>", "Tanh"])
def test_other_activations_between_quantisers(network: Any, tmp_path: Path, op: str) -> None:
    """They are measured, and so no layer keeps its own levels unchanged."""
    text = (
        f"g (float[N,2,4,4] x) => (float[N,2,4,4] y) <{CONSTANTS}> {{"
        " k1 = DequantizeLinear (w1, ws, wz) k2 = DequantizeLinear (w2, ws, wz)"
        " a = Conv <pads = [1,1,1,1]> (x, k1, b1) " + pair("a", "r")
        + f" b = Conv <pads = [1,1,1,1]> (r, k2, b1) c = {op} (b) "
        + " d = Conv <pads = [1,1,1,1]> (c, k1, b1) " + pair("d", "e")
        + " y = Conv <pads = [1,1,1,1]> (e, k2) }"
    )  # fmt: skip
    ann, snn = network(text, 18), tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=LEVELS, form="counts", data=[{"x": inputs(64)}])
    assert {a.status for a in result.activations} == {"converted"}
    x = inputs(8)
    assert verify(ann, snn, [{"x": x}]).equal
    expected = as_written(ann, x)
    error = run(snn, x, optimised=True) - as_written(ann, x)
    assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 0.2


def test_rounded_currents_around_other_activations(network: Any, tmp_path: Path) -> None:
    """No rectifier anywhere: functions are activations, too."""
    text = (
        f"g (float[N,2,4,4] x) => (float[N,2,4,4] y) <{CONSTANTS}> {{"
        " k1 = DequantizeLinear (w1, ws, wz) k2 = DequantizeLinear (w2, ws, wz)"
        " a = Conv <pads = [1,1,1,1]> (x, k1, b1) r = HardSwish (a)"
        " q = QuantizeLinear (r, s, wz) d = DequantizeLinear (q, s, wz)"
        " b = Conv <pads = [1,1,1,1]> (d, k2, b1) c = HardSwish (b)"
        " t = QuantizeLinear (c, s, wz) e = DequantizeLinear (t, s, wz)"
        " f = Conv <pads = [1,1,1,1]> (e, k1, b1) h = HardSwish (f)"
        " y = Conv <pads = [1,1,1,1]> (h, k2) }"
    )
    ann, snn = network(text), tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=255, form="counts", data=[{"x": inputs(64)}])
    found = [a.operator for a in result.activations if a.status == "converted"]
    assert found.count("quantiser (255 levels)") == 2
    assert found.count("HardSwish") == 4  # an excitatory and an inhibitory train, twice
    assert verify(ann, snn, [{"x": inputs(8)}]).equal


@pytest.mark.parametrize("choice", ["auto", "drop"])
def test_rounded_currents_are_dropped_at_few_steps(
    network: Any, tmp_path: Path, choice: str
) -> None:
    """Unless they are asked for; at as many steps as levels they spike (every other test)."""
    ann, snn = network(residual("odd")), tmp_path / "snn.onnx"
    result = convert(
        *(ann, snn), steps=8, data=[{"x": inputs(32)}], form="counts", rounded_currents=choice
    )
    assert [a.status for a in result.activations] == ["dropped", *["converted"] * 3]
    assert [n.name for n in result.record.neurons] == ["r", "r/skip", "e"]
    assert result.advice() is None
    assert verify(ann, snn, [{"x": inputs(8)}]).equal


def test_int8_rounds_ties_as_the_file_says(network: Any, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    convert(network(residual("odd")), snn, steps=LEVELS, form="int8", data=[{"x": inputs(32)}])
    proto = onnx.load(snn)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    scales = [
        arrays[n.input[1]]
        for n in proto.graph.node
        if n.op_type == "QuantizeLinear" and n.output[0].endswith("/unbounded")
    ]
    assert len(scales) == 3
    assert all(scale == 1.0 for scale in scales)


QUANTISED = {
    "uint8, weights per channel": {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    },
    "uint8, weights uint8": {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QUInt8,
    },
    "int8": {},
    "int8, 0 in the middle": {"extra_options": {"ActivationSymmetric": True}},
    "int8, weights of seven bits": {"reduce_range": True, "per_channel": True},
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration data as ONNX Runtime wants it."""

    def __init__(self, images: Any) -> None:
        self._batches = iter([{"image": images}])

    def get_next(self) -> Any:
        return next(self._batches, None)


@pytest.mark.parametrize("how", QUANTISED)
def test_onnx_runtimes_static_quantisation(digits: Digits, tmp_path: Path, how: str) -> None:
    ann, snn = tmp_path / "ann.onnx", tmp_path / "snn.onnx"
    source = Path(graphpass_models.__file__).parent / "digits_cnn.onnx"
    quantize_static(source, ann, Reader(digits.train_images[:64]), **QUANTISED[how])
    result = convert(ann, snn, steps=255, form="counts")
    assert {a.status for a in result.activations} == {"converted"}
    found = verify(ann, snn, [{"image": digits.test_images}])
    assert found.equal, found.wrong
    assert found.argmax_agreement == 1.0
    arrays = [onnx.numpy_helper.to_array(t) for t in onnx.load(snn).graph.initializer]
    large = [a.dtype for a in arrays if a.ndim > 1 and a.size > 256]
    assert len(large) >= 2
    assert set(large) <= {np.dtype(np.int8), np.dtype(np.uint8)}
    feeds = {"image": digits.test_images}
    outputs = [next(iter(Session(path).run(feeds).values())) for path in (ann, snn)]
    # Few samples differ, each by a float32 sum beside a tie: the rest is the same to the bit.
    assert np.mean((outputs[0] == outputs[1]).all(1)) > 0.95
    assert np.mean(outputs[0].argmax(1) == outputs[1].argmax(1)) > 0.99


def test_int8_behind_a_prefix_that_was_quantised(network: Any, tmp_path: Path) -> None:
    """Its first layer lies between quantisers that no neuron replaces."""
    text = (
        f"g (float[N,2,4,4] x) => (float[N,2,4,4] y) <{CONSTANTS}> {{"
        " i_q = QuantizeLinear (x, si, wz) i = DequantizeLinear (i_q, si, wz)"
        " k1 = DequantizeLinear (w1, ws, wz) k2 = DequantizeLinear (w2, ws, wz)"
        " a = Conv <pads = [1,1,1,1]> (i, k1, b1)"
        " c_q = QuantizeLinear (a, s, wz) c = DequantizeLinear (c_q, s, wz)"
        " b = Conv <pads = [1,1,1,1]> (c, k2, b1) " + pair("b", "r")
        + " d = Conv <pads = [1,1,1,1]> (r, k1, b1) " + pair("d", "e")
        + " y = Conv <pads = [1,1,1,1]> (e, k2) }"
    )  # fmt: skip
    ann, snn = network(text), tmp_path / "snn.onnx"
    convert(ann, snn, steps=LEVELS, form="counts", stages=tmp_path)
    x = inputs(8)
    expected = as_written(ann, x)
    for optimised in (False, True):
        np.testing.assert_array_equal(run(snn, x, optimised=optimised), expected)
    convert(tmp_path / "3-calibrated.onnx", snn, form="int8")
    found = verify(ann, snn, [{"x": x}])
    assert found.equal, found.wrong
    assert found.output_relative_error < 0.03


@pytest.mark.parametrize("how", QUANTISED)
def test_operators_on_integers(digits: Digits, tmp_path: Path, how: str) -> None:
    ann, snn = tmp_path / "ann.onnx", tmp_path / "snn.onnx"
    source = Path(graphpass_models.__file__).parent / "digits_cnn.onnx"
    images = Reader(digits.train_images[:64])
    quantize_static(source, ann, images, quant_format=QuantFormat.QOperator, **QUANTISED[how])
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= {n.op_type for n in onnx.load(ann).graph.node}
    result = convert(ann, snn, steps=255, form="counts")
    assert {a.status for a in result.activations} == {"converted"}
    feeds = {"image": digits.test_images}
    assert verify(ann, snn, [feeds]).equal
    if how.startswith("int8") and saturates():
        pytest.skip("ONNX Runtime's own sums of signed products saturate on this processor")
    outputs = [onnxruntime.InferenceSession(str(p)).run(None, feeds)[0] for p in (ann, snn)]
    assert np.mean((outputs[0] == outputs[1]).all(1)) > 0.9


def test_qonnx_file(shared_data: Path, tmp_path: Path) -> None:
    ann, snn = shared_data / "onnx_corpus/qonnx_espcn_quant.onnx", tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=15, form="counts", keep=["79"])
    assert [n.trained_levels for n in result.record.neurons] == [15] * 3
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 128, 128)).astype(np.float32)
    assert verify(ann, snn, [{"x.7": x}]).equal
    assert snn.stat().st_size < 0.5 * ann.stat().st_size  # its weights were float32
    # The quantiser of its output has 255 levels: with it, no T is that of all.
    result = convert(ann, snn, steps=15, form="counts", calibrate="none")
    assert [n.trained_levels for n in result.record.neurons] == [15, 15, 15, 255]
    assert verify(ann, snn, [{"x.7": x}]).equal


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("form", SAME)
def test_binary_activations(
    network: Any, tmp_path: Path, bare_run: Any, form: str, steps: int
) -> None:
    """They have one level, whatever T is."""
    text = (
        "g (float[N,2,4,4] x) => (float[N,2,4,4] y)"
        f" <{CONSTANTS}, float nil = {{0.0}}, float m1 = {{-0.5}}, float m2 = {{-1.0}}> {{"
        " k1 = DequantizeLinear (w1, ws, wz) k2 = DequantizeLinear (w2, ws, wz)"
        " a = Conv <pads = [1,1,1,1]> (x, k1, b1) f = Less (a, nil) r = Where (f, m1, s)"
        " b = Conv <pads = [1,1,1,1]> (r, k2, b1) g = Less (b, nil) c = Where (g, m2, s2)"
        " y = Conv <pads = [1,1,1,1]> (c, k1) }"
    )
    ann, snn = network(text), tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=steps, form=form)
    assert [(n.levels, n.trained_levels) for n in result.record.neurons] == [(1, 1)] * 2
    x = inputs(8)
    assert verify(ann, snn, [{"x": x}]).equal
    if form != "counts-cpu":  # where what lifts a tie can get lost in a bias larger than T
        expected = as_written(ann, x)
        np.testing.assert_allclose(bare_run(snn, {"x": x})["y"], expected, rtol=0, atol=1e-5)


def test_inspect_names_the_quantiser(network: Any) -> None:
    found = inspect(network(residual("odd")), rounded_currents="spike")
    assert found.convertible
    assert [a.operator for a in found.activations] == ["quantiser (15 levels)"] * 3
    statuses = [a.status for a in inspect(network(residual("odd"))).activations]
    assert statuses == ["dropped", "converted", "converted"]
