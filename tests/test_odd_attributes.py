"""Attributes and calls that are no error to protobuf, and would be lost on the way."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass.model import check_before_running, from_proto, load, to_proto
from graphpass_runtime.errors import ModelError


def parse(text, domains=""):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17{domains}]> {text}')


def test_call_without_all_of_its_inputs():
    text = "g (float[N,3] x) => (float[N,3] y) { y = graphpass.QCFS (x) }"
    with pytest.raises(ModelError, match="calls graphpass::QCFS"):
        from_proto(parse(text, ', "graphpass": 1'))


def test_empty_list():
    proto = parse("g (float[N,3] x) => (float[N,3] y) { y = Transpose <perm = [0, 1]> (x) }")
    del proto.graph.node[0].attribute[0].ints[:]
    with pytest.raises(ModelError, match="attribute 'perm' of Transpose node '' is empty"):
        from_proto(proto)


def test_type_that_the_editing_view_drops():
    proto = parse("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    proto.graph.node[0].attribute.append(onnx.AttributeProto(name="kind", type=13))
    with pytest.raises(ModelError, match="'kind' of Relu node"):
        from_proto(proto)


def test_empty_constant_is_the_shape_of_a_scalar():
    proto = parse(
        "g (float[N] x) => (float y) { s = ReduceSum <keepdims = 1> (x)"
        " e = Constant <value_ints = [1]> () y = Reshape (s, e) }"
    )
    del proto.graph.node[1].attribute[0].ints[:]
    content = to_proto(from_proto(proto)).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.arange(4, dtype=np.float32)})
    assert found.shape == ()
    assert found == 6


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,3] x) => (float[N,3] y) { y = Sum (x, , x) }",
        "g (float[N,3] x) => (float[N,3] y) { y = own.bounded (x) }"
        ' <domain: "own", opset_import: ["": 17]> bounded (a, b) => (c) { c = Min (b, a) }',
    ],
)
def test_operands_left_out_crash_onnx_runtime(text, tmp_path):
    onnx.save(parse(text, ', "own": 1'), tmp_path / "model.onnx")
    for read in (load, check_before_running):
        with pytest.raises(ModelError, match="leaves out an operand"):
            read(tmp_path / "model.onnx")


def test_optional_operands_may_be_left_out(tmp_path):
    text = (
        "g (float[N,3] x) => (float[N,3] y) { y = own.cut (x, , x) }"
        ' <domain: "own", opset_import: ["": 17]>'
        " cut (a, b, d) => (c) { e = Clip (a, b) c = Add (e, d) }"
    )
    onnx.save(parse(text, ', "own": 1'), tmp_path / "model.onnx")
    check_before_running(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["kernel_shape", "strides", "pads"])
def test_windows_whose_size_overflows_crash_onnx_runtime(name, tmp_path):
    proto = parse(
        "g (float[N,1,4] x) => (float[N,1,3] y) <float[1,1,2] w = {1,2}> {"
        " y = Conv <kernel_shape = [2], strides = [1], pads = [0, 0]> (x, w) }"
    )
    (attribute,) = (a for a in proto.graph.node[0].attribute if a.name == name)
    attribute.ints[0] = 2**63 - 1
    onnx.save(proto, tmp_path / "model.onnx")
    for read in (load, check_before_running):
        with pytest.raises(ModelError, match=f"Conv node '' has {name} beyond 2\\^31"):
            read(tmp_path / "model.onnx")
