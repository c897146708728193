"""How much work nodes are, and what part of it islands answer for."""

import onnx.parser
import pytest

from graphpass.model import from_proto, infer_shapes
from graphpass.timeflow import infer
from graphpass.work import island_shares, multiply_accumulates


def model(text, opset=17):
    loaded = from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> g {text}'
        ),
        name="net",
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
        ("(float[N,3,5] x, float[N,3,7] w) => (float y)"
         " { y = Einsum <equation = 'nij,nik->njk'> (x, w) }", 3 * 5 * 7),
        ("(float[N,3,5] x) => (float y) { y = Einsum <equation = 'nij->nji'> (x) }", 0),
        ("(float[6,N,5] x, float[2,16,5] w, float[2,16,4] r) => (float y)"
         " { y, h = LSTM <hidden_size = 4, direction = 'bidirectional'> (x, w, r) }",
         6 * 2 * 16 * 9),
        ("(float[N,2,3,5] x, float[N,2,7,5] w, float[N,2,7,4] v) => (float y)"
         " { y = Attention (x, w, v) }", 2 * 3 * 7 * 9),
        ("(float[N,3,8] x, float[N,7,4] w, float[N,7,4] v) => (float y)"
         " { y = Attention <q_num_heads = 4, kv_num_heads = 2> (x, w, v) }", 3 * 7 * (8 + 8)),
        ("(float[N,3,8] x, float[N,7,8] w, float[N,7,8] v) => (float y)"
         " { y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, w, v) }", 3 * 7 * 16),
        ("(float[N,3,8] x, float[8,24] w, float[24] v) => (float y)"
         " { y = com.microsoft.Attention <num_heads = 2> (x, w, v) }", 3 * 8 * 24 + 2 * 9 * 8),
        ("(float[N,3,8] x) => (float y) { y = com.microsoft.FastGelu (x) }", 0),
        ("(float[N,3,8] x) => (float y) { y = com.microsoft.Unheard (x) }", None),
        ("(float[N,3,5] x) => (float y) { y = Sigmoid (x) }", 0),
        ("(float[N,3,H] x, float[H,3] w) => (float y) { y = MatMul (x, w) }", None),
    ],
)  # fmt: skip
def test_multiply_accumulates_of_one_sample(text, work):
    # Shapes of outputs are the file's own; those of tensors inside are inferred.
    opset = 23 if "= Attention" in text else 17
    text = text.replace("'", '"').replace("float y", "float z").replace("}", "z = Identity (y) }")
    loaded = model(text, opset)
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
