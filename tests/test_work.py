"""How much work nodes are, and what part of it islands answer for."""

import onnx.parser
import pytest

from graphpass.model import from_proto, infer_shapes
from graphpass.timeflow import infer
from graphpass.work import island_shares, multiply_accumulates


def model(text):
    loaded = from_proto(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}'), name="net"
    )
    infer_shapes(loaded)
    return loaded


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("(float[N,4,6,6] x, float[8,4,3,3] w) => (float y) { y = Conv (x, w) }", 8 * 16 * 36),
        ("(float[N,4,6,6] x, float[4,1,3,3] w) => (float y) { y = Conv <group = 4> (x, w) }",
         4 * 16 * 9),
        ("(float[N,4,6,6] x, float[4,8,2,2] w) => (float y) { y = ConvTranspose (x, w) }",
         4 * 36 * 8 * 4),
        ("(float[N,5] x, float[5,7] w) => (float y) { y = Gemm (x, w) }", 35),
        ("(float[5,N] x, float[5,7] w) => (float y) { y = Gemm <transA = 1> (x, w) }", 35),
        ("(float[N,3,5] x, float[5,7] w) => (float y) { y = MatMul (x, w) }", 105),
        ("(float[N,3,5] x, float[N,5,3] w) => (float y) { y = MatMul (x, w) }", 45),
        ("(float[N,3,5] x) => (float y) { y = Sigmoid (x) }", 0),
        ("(float[N,3,H] x, float[H,3] w) => (float y) { y = MatMul (x, w) }", None),
    ],
)  # fmt: skip
def test_multiply_accumulates_of_one_sample(text, work):
    # Shapes of outputs are the file's own; those of tensors inside are inferred.
    loaded = model(text.replace("float y", "float z").replace("}", "z = Identity (y) }"))
    assert multiply_accumulates(loaded.graph.nodes[0], "N") == work


def test_an_island_answers_for_what_follows_it():
    text = """(float[N,5,2] x, float[2,2] u) => (float[N,5,2] y) {
        a = MatMul (x, u) r = Relu (a) t = Transpose <perm = [0,2,1]> (r)
        m = MatMul (r, t) p = Softmax <axis = -1> (m) o = MatMul (p, p) q = MatMul (o, r)
        s = Relu (q) y = MatMul (s, u) }"""
    loaded = model(text)
    flow = infer(loaded, ["r", "s"], islands=True)
    assert [island.node.op for island in flow.islands] == ["MatMul"]
    shares = list(island_shares(loaded, flow).values())
    # x u: 20; r t: 50, its own; p p: 125, which follows; o r: 50, in time again; s u: 20
    assert shares == [pytest.approx((50 + 125) / 265)]
