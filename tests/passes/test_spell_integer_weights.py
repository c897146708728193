"""Weights that were quantised keep their integers; other constants become float32."""

import numpy as np
import onnx
import pytest

from graphpass import weights
from graphpass.editing import values
from graphpass.model import to_proto
from graphpass.passes.spell_integer_weights import SpellIntegerWeights

RNG = np.random.default_rng(5)
ARRAYS = {
    "w": RNG.integers(-128, 128, (3, 2, 3, 3)).astype(np.int8),
    "u": RNG.integers(0, 256, (3, 2, 3, 3)).astype(np.uint8),
    "f": np.round(RNG.normal(0, 0.3, (3, 2, 3, 3)), 3).astype(np.float32),
    "c": RNG.integers(-9, 9, (1, 2, 4, 4)).astype(np.int8),
    "b": np.array([4, -8, 100], np.int32),
    "z3": np.array([1, -2, 5], np.int8),
    "s3": np.array([0.25, 0.5, 0.125], np.float32) / 64,
    "s2": np.array([0.5, 0.25], np.float32) / 64,
    "s": np.array(0.25 / 64, np.float32),
    "z": np.array(0, np.int8),
    "middle": np.array(120, np.uint8),
}


def spelt(name):
    array = ARRAYS[name]
    shape = str(list(array.shape)).replace(" ", "") if array.ndim else ""
    kind = "float" if array.dtype == np.float32 else str(array.dtype)
    return f"{kind}{shape} {name} = {{{', '.join(str(v) for v in array.ravel().tolist())}}}"


CONSTANTS = ", ".join(spelt(name) for name in ARRAYS)


def net(body, more=""):
    return f"g (float[N,2,4,4] x{more}) => (float[N,K,L,M] y) <{CONSTANTS}> {{ {body} }}"


@pytest.mark.parametrize(
    ("dequantise", "ops"),
    [
        ("DequantizeLinear (w, s, z)", ["Cast", "Mul"]),
        ("DequantizeLinear (w, s)", ["Cast", "Mul"]),
        ("DequantizeLinear (u, s, middle)", ["Cast", "Sub", "Mul"]),
        ("DequantizeLinear <axis = 0> (w, s3, z3)", ["Cast", "Sub", "Mul"]),
        ("DequantizeLinear <axis = 1> (w, s2)", ["Cast", "Mul"]),
        ("DequantizeLinear <axis = -4> (w, s3)", ["Cast", "Mul"]),
    ],
)
def test_weights_keep_their_integers(bench, dequantise, ops):
    model = bench.changed(SpellIntegerWeights, net(f"k = {dequantise} y = Conv (x, k)"))
    assert bench.ops(model) == [*ops, "Conv"]
    integers = model.graph.nodes[0].inputs[0].values
    expected = ARRAYS["u" if "(u" in dequantise else "w"]
    np.testing.assert_array_equal(integers, expected)
    assert integers.dtype == expected.dtype


def test_opset_with_one_scale_only(bench):
    text = net("k = DequantizeLinear (w, s, z) y = Conv (x, k)")
    assert bench.ops(bench.changed(SpellIntegerWeights, text, 10)) == ["Cast", "Mul", "Conv"]


def test_weights_that_are_rounded_in_the_file(bench):
    body = (
        "q = QuantizeLinear <axis = 0> (f, s3, z3) k = DequantizeLinear <axis = 0> (q, s3, z3)"
        " y = Conv (x, k)"
    )
    model = bench.changed(SpellIntegerWeights, net(body))
    assert bench.ops(model) == ["Cast", "Sub", "Mul", "Conv"]
    integers = model.graph.nodes[0].inputs[0].values
    assert integers.dtype == np.int8
    assert integers.min() == -128
    assert integers.max() == 127


@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
def test_weights_of_four_bits_in_blocks(bench, kind):
    dtype = getattr(onnx.TensorProto, kind)
    low = -8 if kind == "INT4" else 0
    proto = bench.proto(net("k = DequantizeLinear (w, s, z) y = Conv (x, k)"), opset=21)
    flat = RNG.integers(low, low + 16, 54).tolist()
    node = next(n for n in proto.graph.node if n.op_type == "DequantizeLinear")
    node.input[:] = ["w4", "s4"]
    node.attribute.extend(
        [onnx.helper.make_attribute("axis", 0), onnx.helper.make_attribute("block_size", 2)]
    )
    scales = RNG.uniform(0.01, 0.1, (2, 2, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.helper.make_tensor("w4", dtype, (3, 2, 3, 3), flat))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(scales, "s4"))
    model = bench.changed(SpellIntegerWeights, proto)
    assert bench.ops(model) == ["Cast", "Mul", "Conv"]


@pytest.mark.parametrize(
    "body",
    [
        "k = DequantizeLinear <axis = 0> (b, s3) h = Conv (x, f) r = Reshape (k, shape)"
        " y = Add (h, r)",
        "k = DequantizeLinear (c, s, z) h = Add (x, k) y = Conv (h, f)",
        "k = DequantizeLinear (w, s, z) h = Conv (x, k) l = Mul (k, k) y = Conv (x, l)",
        "k = DequantizeLinear <axis = 0> (b, s3) y = Conv (x, f, k)",
    ],
    ids=["bias beside a layer", "summand", "another reader", "bias of a layer"],
)
def test_other_constants_become_float(bench, body):
    text = net(body).replace("<int8[3,2", "<int64[4] shape = {1, 3, 1, 1}, int8[3,2")
    model = bench.changed(SpellIntegerWeights, text)
    assert not {"DequantizeLinear", "Cast"} & set(bench.ops(model))


@pytest.mark.parametrize(
    "body",
    [
        "q = QuantizeLinear (x, s, z) k = DequantizeLinear (q, s, z) y = Conv (k, f)",
        "k = DequantizeLinear (w, t, z) y = Conv (x, k)",
        "k = DequantizeLinear <axis = 7> (w, s3, z3) y = Conv (x, k)",
        "k = DequantizeLinear <axis = 1> (w, s3, z3) y = Conv (x, k)",
        "q = QuantizeLinear <axis = 1> (f, s3, z3) k = DequantizeLinear <axis = 1> (q, s3, z3)"
        " y = Conv (x, k)",
    ],
    ids=[
        "a tensor of the network",
        "a scale that is an input",
        "no such axis",
        "another number of scales",
        "another number of scales to round with",
    ],
)
def test_near_misses(bench, body):
    bench.unchanged(SpellIntegerWeights, net(body, ", float t"))


def layer(bench):
    """A Conv with integer weights and a bias."""
    body = "k = DequantizeLinear <axis = 0> (w, s3, z3) y = Conv (x, k, bf)"
    text = net(body).replace("<int8[3,2", "<float[3] bf = {1.0, 2.0, -1.0}, int8[3,2")
    model = bench.changed(SpellIntegerWeights, text)
    return model, model.graph.nodes[-1]


def test_gains_of_outputs_go_into_the_scale(bench):
    model, conv = layer(bench)
    before = to_proto(model)
    gain, offset = np.array([2.0, 3.0, 0.3]), np.array([1.0, 0.0, -1.0])
    old = values(conv.inputs[1])
    assert weights.scale_outputs(model, conv, gain, offset)
    model.graph.cleanup().toposort()
    np.testing.assert_allclose(values(conv.inputs[1]), old * gain.reshape(3, 1, 1, 1), rtol=1e-6)
    assert bench.ops(model) == ["Cast", "Sub", "Mul", "Conv"]
    assert model.graph.nodes[2].inputs[1].values.size == 3
    for (one,), (other,) in zip(bench.run(before), bench.run(model), strict=True):
        expected = one * gain.reshape(3, 1, 1) + offset.reshape(3, 1, 1)
        np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("factor", "ops", "scales"),
    [
        ([0.5, 3.0], ["Cast", "Sub", "Mul", "Mul", "Conv"], 2),
        ([0.5, 0.5], ["Cast", "Sub", "Mul", "Conv"], 3),
    ],
)
def test_factors_of_inputs_stay_beside_the_integers(bench, factor, ops, scales):
    model, conv = layer(bench)
    old = values(conv.inputs[1])
    assert weights.scale_inputs(model, conv, np.array(factor))
    model.graph.cleanup().toposort()
    expected = old * np.array(factor).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(values(conv.inputs[1]), expected, rtol=1e-6)
    assert bench.ops(model) == ops
    products = [n for n in model.graph.nodes if n.op == "Mul"]
    assert products[-1].inputs[1].values.size == scales
    bench.check(to_proto(model))
