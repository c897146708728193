"""A network in half precision is converted in single precision."""

import numpy as np
import onnx
import pytest

from graphpass.model import to_proto
from graphpass.passes.widen_precision import WidenPrecision

NET = """agraph (float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,3,4,4] r)
    <float[3,3,1,1] w = {1,2,3,4,5,6,7,8,9}> { a = Conv (x, w) r = Relu (a) y = Mul (r, r) }"""


@pytest.mark.parametrize("opset", [8, 13, 22])
def test_weights_are_single_and_the_interface_half(bench, opset):
    proto = bench.half(NET, opset)
    model = bench.model(proto)
    assert WidenPrecision()(model).modified
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
    assert WidenPrecision()(model).modified
    assert {n.attrs["to"] for n in model.graph.nodes if n.op == "Cast"} == {1}
    bench.same_outputs(proto, model, atol=4e-3)


def test_constant_nodes_and_shapes(bench):
    proto = bench.proto("agraph (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    half = onnx.numpy_helper.from_array(np.array([0.5], np.float16))
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    proto.graph.node[0].input[0] = "z"
    proto.graph.node.insert(0, onnx.helper.make_node("Add", ["x", "c"], ["z"]))
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=half))
    model = bench.model(proto)
    WidenPrecision()(model)
    for before, found in zip(bench.run(proto), bench.run(to_proto(model)), strict=True):
        np.testing.assert_allclose(found[0], before[0], atol=2e-3)


def test_single_precision_is_left_alone(bench):
    bench.unchanged(WidenPrecision, NET)
