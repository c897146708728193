"""Which scalar functions are activations: those between layers, not gates, norms or outputs."""

import onnx.parser
import pytest

from graphpass import stages
from graphpass.candidates import find_candidates
from graphpass.model import from_proto

K = (
    "float[3,3,1,1] k = {1,2,3,4,5,6,7,8,9}, float two = {2.0}, float three = {3.0},"
    " float zero = {0.0}, float six = {6.0}, float eps = {0.001},"
    " uint8[3,3,1,1] q = {1,2,3,4,5,6,7,8,9}"
)


def candidates(body, opset=17):
    model = from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}]>'
            f" g (float[N,3,4,4] x) => (float y) <{K}> {{ {body} }}"
        )
    )
    stages.normalise(model)
    found = find_candidates(model)
    return [node.outputs[0].name for node in found.nodes], found


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("a = Conv (x, k) s = Sigmoid (a) y = Conv (s, k)", ["s"]),
        ("a = Conv (x, k) s = Tanh (a) p = GlobalAveragePool (s) y = Conv (p, k)", ["s"]),
        ("a = Conv (x, k) s = Elu (a) b = Add (s, x) r = Relu (b) y = Conv (r, k)", ["s", "r"]),
        # the last of several; the output stays analog
        ("a = Conv (x, k) s = Tanh (a) b = Conv (s, k) y = Tanh (b)", ["s"]),
        # an output
        ("a = Conv (x, k) y = Sigmoid (a)", []),
        # preprocessing: no layer before it
        ("s = Tanh (x) a = Conv (s, k) y = Relu (a)", ["y"]),
        # a gate: a product with what spikes too
        (
            "a = Conv (x, k) r = Relu (a) p = GlobalAveragePool (r) b = Conv (p, k)"
            " g = Sigmoid (b) m = Mul (r, g) y = Conv (m, k)",
            ["r"],
        ),
        # a normalisation
        (
            "a = Conv (x, k) r = Relu (a) q = Mul (r, r) p = GlobalAveragePool (q)"
            " e = Add (p, eps) s = Sqrt (e) n = Div (r, s) y = Conv (n, k)",
            ["r"],
        ),
        # layers on integers, as dynamic quantisation writes them
        (
            "i, si, zi = DynamicQuantizeLinear (x) c = ConvInteger (i, q, zi) f = Cast <to = 1> (c)"
            " a = Mul (f, si) s = Sigmoid (a)"
            " j, sj, zj = DynamicQuantizeLinear (s) d = ConvInteger (j, q, zj)"
            " g = Cast <to = 1> (d) y = Mul (g, sj)",
            ["s"],
        ),
        # rises and falls more than once
        ("a = Conv (x, k) s = Sin (a) y = Conv (s, k)", []),
    ],
)
def test_what_is_an_activation(body, names):
    assert candidates(body)[0] == names


def test_a_clip_that_is_part_of_a_function_is_no_activation():
    body = "a = Conv (x, k) b = Add (a, three) c = Clip (b, zero, six) d = Mul (a, c) y = {}"
    names, found = candidates(body.format("Conv (d, k)"))
    assert names == ["d"]
    assert len(found.pairs) == 1
    assert candidates(body.format("Identity (d)"))[0] == []  # nor is it one in front of an output
