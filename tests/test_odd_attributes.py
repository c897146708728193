"""Attributes and calls that are no error to protobuf, and would be lost on the way."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass.model import from_proto, to_proto
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
