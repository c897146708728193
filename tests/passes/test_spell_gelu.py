"""GELU in onnxruntime's own domain, against onnxruntime, which runs it."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass.model import from_proto, infer_shapes, to_bytes
from graphpass.passes.spell_gelu import SpellGelu


def parse(op, opset=17, domain="com.microsoft"):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "{domain}": 1]>'
        " g (float[N,5] x) => (float[N,5] y) <float[5] b = {0.5, -1.0, 0.0, 2.0, 0.25}>"
        f" {{ y = {domain}.{op} }}"
    )


def run(content):
    x = np.random.default_rng(4).normal(0, 3, (40, 5)).astype(np.float32)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize(
    "op",
    [
        "Gelu (x)",
        "BiasGelu (x, b)",
        "FastGelu (x)",
        "FastGelu (x, b)",
    ],
)
def test_the_same_numbers(op, opset):
    proto = parse(op, opset)
    before = run(proto.SerializeToString())
    model = from_proto(proto)
    assert SpellGelu()(model).modified
    after = to_bytes(model)
    onnx.checker.check_model(onnx.ModelProto.FromString(after), full_check=True)
    np.testing.assert_allclose(run(after), before, rtol=1e-5, atol=1e-5)
    assert not SpellGelu()(model).modified
    infer_shapes(model)
    assert model.graph.nodes[-1].outputs[0].shape[1] == 5


@pytest.mark.parametrize(("op", "domain"), [("Gelu (x)", "other"), ("Tanh (x)", "com.microsoft")])
def test_other_operators_stay(op, domain):
    model = from_proto(parse(op, domain=domain))
    assert not SpellGelu()(model).modified
