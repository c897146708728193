"""Quant, BipolarQuant and Trunc of QONNX against their definition in NumPy."""

import numpy as np
import onnx
import pytest

from graphpass.model import from_proto, infer_shapes, to_bytes, to_proto
from graphpass.passes.lower_quant import LowerQuant
from graphpass.passes.recognise_qcfs import RecogniseQCFS
from graphpass.passes.recognise_quantiser import RecogniseQuantiser
from graphpass.passes.recognise_signs import RecogniseSigns
from graphpass_runtime.errors import ModelError

DOMAINS = ["qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"]
ROUNDING = {"ROUND": np.rint, "FLOOR": np.floor, "CEIL": np.ceil}


def quant(x, scale, zero, bits, *, signed=1, narrow=0, mode="ROUND"):
    """The definition, halves and all."""
    levels = x / scale + zero
    if bits == 1 and signed:
        return np.where(levels >= 0, 1, -1) * scale - zero * scale
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    return (ROUNDING[mode](np.clip(levels, low, high)) - zero) * scale


def model_of(body, arrays, opset=17, domain=DOMAINS[0]):
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}, "{domain}": 1]>'
        f" g (float[N,2,3,3] x) => (float[N,K,L,M] y) {{ {body.replace('D.', domain + '.')} }}"
    )
    proto = onnx.parser.parse_model(text)
    for name, array in arrays.items():
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)
        )
    proto.metadata_props.add(key="author", value="somebody")
    onnx.checker.check_model(proto)
    model = from_proto(proto, name="test.onnx")
    infer_shapes(model)
    return model


def inputs():
    """Halves, and what is far beyond every end."""
    return (np.arange(-162, 162, dtype=np.float32) * 0.25).reshape(18, 2, 3, 3)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain(bench, domain):
    arrays = {"s": 0.5, "z": 0.0, "b": 4.0}
    model = model_of("y = D.Quant <signed = 0, narrow = 0> (x, s, z, b)", arrays, domain=domain)
    assert LowerQuant()(model).modified
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    np.testing.assert_array_equal(found, quant(inputs(), 0.5, 0, 4, signed=0))
    assert model.props["author"] == "somebody"
    content = to_bytes(model)
    assert not LowerQuant()(model).modified
    assert to_bytes(model) == content


@pytest.mark.parametrize("opset", [11, 12, 13, 21])
@pytest.mark.parametrize(("signed", "narrow"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bits", [2, 4, 8, 9])
@pytest.mark.parametrize("zero", [0, 3])
def test_tensors_of_the_network(bench, opset, signed, narrow, bits, zero):
    arrays = {"s": 0.5, "z": float(zero), "b": float(bits)}
    body = f"y = D.Quant <signed = {signed}, narrow = {narrow}> (x, s, z, b)"
    model = model_of(body, arrays, opset)
    assert LowerQuant()(model).modified
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    expected = quant(inputs(), 0.5, zero, bits, signed=signed, narrow=narrow)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("signed", [0, 1])
def test_one_bit(bench, signed):
    model = model_of(
        f"y = D.Quant <signed = {signed}, narrow = 0> (x, s, z, b)", {"s": 0.5, "z": 0.0, "b": 1.0}
    )
    LowerQuant()(model)
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    np.testing.assert_array_equal(found, quant(inputs(), 0.5, 0, 1, signed=signed))


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL"])
@pytest.mark.parametrize("scale", [0.5, [[[0.5]], [[0.125]]]])
def test_roundings_and_scales(bench, mode, scale):
    arrays = {"s": scale, "z": 0.0, "b": 5.0}
    body = f'y = D.Quant <signed = 1, narrow = 0, rounding_mode = "{mode}"> (x, s, z, b)'
    model = model_of(body, arrays)
    LowerQuant()(model)
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    expected = quant(inputs(), np.array(scale, np.float32), 0, 5, mode=mode)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scale", [0.5, [[[0.5]], [[0.125]]]])
def test_bipolar(bench, scale):
    model = model_of("y = D.BipolarQuant (x, s)", {"s": scale})
    LowerQuant()(model)
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    signs = np.where(inputs() >= 0, 1, -1)
    np.testing.assert_array_equal(found, signs * np.array(scale, np.float32))


def test_bipolar_becomes_a_neuron():
    arrays = {"s": 0.5, "w": np.ones((2, 2, 1, 1))}
    model = model_of("a = Conv (x, w) y = D.BipolarQuant (a, s)", arrays)
    for step in (LowerQuant(), RecogniseSigns()):
        step(model)
    assert [node.op for node in model.graph.nodes] == ["Conv", "Add", "QCFS", "Add"]


@pytest.mark.parametrize(
    ("call", "bits"),
    [("Quant <signed = 1, narrow = 1> (w, s, z, b)", 4), ("BipolarQuant (w, s)", 1)],
)
def test_weights_keep_their_integers(bench, call, bits):
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (3, 2, 2, 2)).astype(np.float32)
    scale = np.array([0.25, 0.5, 0.125], np.float32).reshape(3, 1, 1, 1)
    arrays = {"w": weight, "s": scale, "z": 0.0, "b": float(bits)}
    model = model_of(f"k = D.{call} y = Conv (x, k)", arrays, opset=11)
    LowerQuant()(model)
    assert bench.ops(model) == ["Cast", "Mul", "Conv"]
    assert model.graph.nodes[0].inputs[0].dtype == np.int8
    expected = quant(weight, scale, 0, bits, narrow=1).astype(np.float32)
    plain = model_of("y = Conv (x, k)", {"k": expected}, opset=11)
    (one,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    (other,) = bench.run_feeds(to_proto(plain), {"x": inputs()})
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(("opset", "bits"), [(11, 4), (11, 8), (13, 4), (13, 3)])
def test_unsigned_is_recognised_as_a_neuron(bench, opset, bits):
    arrays = {"s": 0.5, "z": 0.0, "b": float(bits), "w": np.ones((2, 2, 1, 1))}
    body = "a = Conv (x, w) r = Relu (a) y = D.Quant <signed = 0, narrow = 0> (r, s, z, b)"
    model = model_of(body, arrays, opset)
    for step in (LowerQuant(), RecogniseQuantiser(), RecogniseQCFS()):
        step(model)
    assert bench.ops(model) == ["Conv", "QCFSHalfEven"]
    levels = 2**bits - 1
    node = model.graph.nodes[1]
    assert (node.inputs[1].values, node.inputs[2].values) == (levels / 2, levels)


@pytest.mark.parametrize(
    ("body", "opset", "reason"),
    [
        ('y = D.Quant <rounding_mode = "HALF_UP"> (x, s, z, b)', 17, "rounds by HALF_UP"),
        ("y = D.Quant <signed = [1, 0]> (x, s, z, b)", 17, "'signed' that is neither 0 nor 1"),
        ("y = D.Quant <narrow = 7> (x, s, z, b)", 17, "'narrow' that is neither 0 nor 1"),
        ("y = D.Quant (x, s, z, b)", 10, "opset 10"),
        ("k = Relu (s) y = D.Quant (x, k, z, b)", 17, "the scale of Quant node"),
        ("k = Relu (b) y = D.Quant (x, s, z, k)", 17, "number of bits"),
        ("y = D.Quant (x, s, z, s)", 17, "not one of 1 to 24"),
        ("y = D.Quant (x, s, z, many)", 17, "not one of 1 to 24"),
        ("y = D.Quant (x, s, z, nan)", 17, "not one of 1 to 24"),
        ("k = D.Quant (w, three, z, b) y = Add (x, k)", 17, "do not fit"),
        ("k = Relu (s) y = D.BipolarQuant (x, k)", 17, "the scale of BipolarQuant node"),
    ],
)
def test_what_cannot_be_said_is_refused(body, opset, reason):
    arrays = {"s": 0.5, "z": 0.0, "b": 4.0, "many": 1e9, "nan": np.nan}
    arrays |= {"w": np.ones(2), "three": np.ones(3)}
    model = model_of(body, arrays, opset)
    with pytest.raises(ModelError, match=reason):
        LowerQuant()(model)


def test_near_misses(bench):
    bench.unchanged(LowerQuant, "g (float[N] x) => (float[N] y) { y = Relu (x) }")


@pytest.mark.parametrize("op", ["FloatQuant (x, s)", "MultiThreshold (x, s)"])
def test_other_operators_are_refused(op):
    model = model_of(f"y = D.{op}", {"s": 0.5})
    with pytest.raises(ModelError, match="does not know; export quantisers as Quant"):
        LowerQuant()(model)


def test_the_newer_name(bench):
    arrays = {"s": 0.5, "z": 0.0, "b": 4.0}
    model = model_of("y = D.IntQuant <signed = 0, narrow = 0> (x, s, z, b)", arrays)
    LowerQuant()(model)
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    np.testing.assert_array_equal(found, quant(inputs(), 0.5, 0, 4, signed=0))


@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "ROUND"])
@pytest.mark.parametrize("zero", [0, 4])
def test_truncation(bench, mode, zero):
    arrays = {"s": 0.5, "z": float(zero), "b": 8.0, "k": 6.0}
    model = model_of(f'y = D.Trunc <rounding_mode = "{mode}"> (x, s, z, b, k)', arrays)
    LowerQuant()(model)
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    expected = (ROUNDING[mode](np.rint(inputs() / 0.5 + zero) / 4) - zero) * 0.5
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 20


@pytest.mark.parametrize("signed", [0, 1])
def test_truncation_of_the_second_version(bench, signed):
    arrays = {"s": 0.5, "z": 4.0, "b": 8.0, "t": 2.0, "k": 4.0}
    body = f"y = D.Trunc <signed = {signed}, narrow = 0> (x, s, z, b, t, k)"
    model = model_of(body, arrays)
    LowerQuant()(model)
    (found,) = bench.run_feeds(to_proto(model), {"x": inputs()})
    ends = (-8, 7) if signed else (0, 15)
    whole = np.floor(np.clip(np.rint(inputs() / 0.5 + 4) / 4, *ends))
    np.testing.assert_array_equal(found, (whole - 1) * 2)
    assert {ends[0] * 2 - 2, ends[1] * 2 - 2} <= set(np.unique(found)) | {-2}
