"""A network in another precision is converted in single precision."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from graphpass.model import to_proto
from graphpass.passes.unify_precision import UnifyPrecision
from graphpass_runtime.errors import ModelError

NET = """agraph (float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,3,4,4] r)
    <float[3,3,1,1] w = {1,2,3,4,5,6,7,8,9}> { a = Conv (x, w) r = Relu (a) y = Mul (r, r) }"""


@pytest.mark.parametrize("opset", [8, 13, 22])
def test_weights_are_single_and_the_interface_half(bench, opset):
    proto = bench.half(NET, opset)
    model = bench.model(proto)
    assert UnifyPrecision()(model).modified
    after = to_proto(model)
    halves = [v.name for v in after.graph.value_info if v.type.tensor_type.elem_type == 10]
    assert halves == []
    assert bench.ops(model) == ["Cast", "Conv", "Relu", "Mul", "Cast", "Cast"] or sorted(
        bench.ops(model)
    ) == ["Cast", "Cast", "Cast", "Conv", "Mul", "Relu"]
    for before, found in zip(bench.run(proto), bench.run(after), strict=True):
        for one, other in zip(before, found, strict=True):
            assert one.dtype == other.dtype == np.float16
            np.testing.assert_allclose(other, one, rtol=4e-3, atol=1e-2)
    assert not [n for n in model.graph.nodes if n.op == "Conv" and n.inputs[0].dtype != np.float32]


def test_mixed_precision(bench):
    """Casts between the two go away in effect; constants in nodes are widened too."""
    proto = bench.proto(
        """agraph (float[N,3] x) => (float[N,3] y) {
            h = Cast <to = 10> (x) half = Cast <to = 10> (two) m = Mul (h, half)
            s = Cast <to = 1> (m) y = Relu (s) }""".replace(
            "=> (float[N,3] y) {", "=> (float[N,3] y) <float two = {2.0}> {"
        )
    )
    model = bench.model(proto)
    assert UnifyPrecision()(model).modified
    assert {n.attrs["to"] for n in model.graph.nodes if n.op == "Cast"} == {1}
    bench.same_outputs(proto, model, atol=4e-3)


def test_types_that_the_file_names_are_renamed(bench):
    """No inference corrects them behind operators that ONNX does not know."""
    model = bench.model(bench.half(NET))
    interface = [*model.graph.inputs, *model.graph.outputs]
    variables = [t for t in model.graph.tensors().values() if not hasattr(t, "values")]
    for tensor in variables:
        tensor.dtype = np.dtype(np.float16)
    UnifyPrecision().apply(model)
    assert {tensor.dtype for tensor in interface} == {np.dtype(np.float16)}
    inner = [t for t in variables if not any(t is i for i in interface)]
    assert {tensor.dtype for tensor in inner} == {np.dtype(np.float32)}


def test_constant_nodes_and_shapes(bench):
    proto = bench.proto("agraph (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    half = onnx.numpy_helper.from_array(np.array([0.5], np.float16))
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    proto.graph.node[0].input[0] = "z"
    proto.graph.node.insert(0, onnx.helper.make_node("Add", ["x", "c"], ["z"]))
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=half))
    model = bench.model(proto)
    UnifyPrecision()(model)
    for before, found in zip(bench.run(proto), bench.run(to_proto(model)), strict=True):
        np.testing.assert_allclose(found[0], before[0], atol=2e-3)


def test_single_precision_is_left_alone(bench):
    bench.unchanged(UnifyPrecision, NET)


DEEP = """agraph (float[N,6] x) => (float[N,6] y) {
    a = MatMul (x, w) r = Relu (a) b = Div (r, c) y = MatMul (b, v) }"""


def written_as(code):
    """The network with all of its floats in another type."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {DEEP}')
    dtype = onnx.helper.tensor_dtype_to_np_dtype(code)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (6, 6)), ("v", (6, 6)), ("c", ())):
        array = (1 + rng.normal(size=shape)).astype(dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = code
    return proto


def test_double(bench):
    proto = written_as(onnx.TensorProto.DOUBLE)
    model = bench.model(proto)
    assert UnifyPrecision()(model).modified
    after = to_proto(model)
    assert {w.data_type for w in after.graph.initializer} == {onnx.TensorProto.FLOAT}
    assert [v.type.tensor_type.elem_type for v in (*after.graph.input, *after.graph.output)] == [
        onnx.TensorProto.DOUBLE
    ] * 2
    for before, found in zip(bench.run(proto), bench.run(after), strict=True):
        assert found[0].dtype == np.float64
        np.testing.assert_allclose(found[0], before[0], rtol=1e-4, atol=1e-4)
    assert not UnifyPrecision()(model).modified


def test_brain_floating_point(bench):
    proto = written_as(onnx.TensorProto.BFLOAT16)
    model = bench.model(proto)
    assert UnifyPrecision()(model).modified
    after = to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(after.SerializeToString())
    found = session.run(None, {"x": x})[0]
    w, v, c = (onnx.numpy_helper.to_array(t).astype(np.float32) for t in proto.graph.initializer)
    np.testing.assert_allclose(found, np.maximum(x @ w, 0) / c @ v, rtol=1e-5, atol=1e-5)
    assert not UnifyPrecision()(model).modified


def test_doubles_beside_a_single_network_stay(bench):
    bench.unchanged(
        UnifyPrecision,
        """agraph (float[N,3] x) => (float[N,3] y) {
            d = Cast <to = 11> (x) e = Sqrt (d) s = Cast <to = 1> (e) y = Relu (s) }""",
    )


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_values_beyond_single_precision(bench, value):
    proto = written_as(onnx.TensorProto.DOUBLE)
    weight, _, scale = proto.graph.initializer
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(value), "c"))
    model = bench.model(proto)
    UnifyPrecision()(model)
    held = model.graph.tensors()["c"].values
    assert held == np.sign(value) * np.finfo(np.float32).max
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((6, 6), value), "w"))
    with pytest.raises(ModelError, match="'w' has values that float32 does not hold"):
        UnifyPrecision()(bench.model(proto))
