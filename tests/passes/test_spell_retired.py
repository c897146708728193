"""Experimental operators of early ONNX, against ONNX Runtime, which still runs them."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass.model import from_proto, infer_shapes, to_bytes
from graphpass.passes.spell_retired import SpellRetired


def parse(op, opset):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        f" g (float[N,3,6,7] x) => (float[N,3,A,B] y) {{ y = {op} }}"
    )


def run(content):
    x = np.random.default_rng(4).normal(size=(2, 3, 6, 7)).astype(np.float32)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize(
    "op",
    [
        "ImageScaler <scale = 0.5, bias = [1.0, 2.0, -3.0]> (x)",
        "Affine <alpha = 2.0, beta = 0.5> (x)",
        "Crop <border = [1, 2, 3, 1]> (x)",
        "Crop <border = [0, 2, 0, 0]> (x)",
        "Crop <border = [1, 2, 0, 0], scale = [3, 4]> (x)",
    ],
)
def test_the_same_numbers(op, opset):
    proto = parse(op, opset)
    before = run(proto.SerializeToString())
    model = from_proto(proto)
    assert SpellRetired()(model).modified
    after = to_bytes(model)
    onnx.checker.check_model(onnx.ModelProto.FromString(after), full_check=True)
    np.testing.assert_allclose(run(after), before, rtol=0, atol=1e-6)
    assert not SpellRetired()(model).modified
    infer_shapes(model)
    assert model.graph.nodes[-1].outputs[0].dtype == np.float32
