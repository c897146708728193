"""Scalar functions are found however they are spelt, and nothing else is taken for one."""

import onnx.parser
import pytest

from graphpass import regions
from graphpass.model import from_proto, infer_shapes

K = (
    "float zero = {0.0}, float half = {0.5}, float one = {1.0}, float three = {3.0},"
    " float six = {6.0}, float[3,1,1] slope = {0.1, 0.2, 0.3}, float[4,4] places = {"
    + ",".join("1.0" for _ in range(16))
    + "}, float[3,3,1,1] k = {1,2,3,4,5,6,7,8,9}"
)


def found(body, outputs="y", opset=17):
    results = ", ".join(f"float[N,3,4,4] {name}" for name in outputs.split())
    model = from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}]>'
            f" g (float[N,3,4,4] x, float[N,3,4,4] w) => ({results}) <{K}> {{ {body} }}"
        )
    )
    infer_shapes(model)
    return {
        name: (region.source.name, [node.outputs[0].name for node in region.nodes], region.axis)
        for name, region in regions.find_regions(model).items()
    }


@pytest.mark.parametrize(
    ("body", "sink", "nodes"),
    [
        ("y = Sigmoid (x)", "y", ["y"]),
        ("s = Sigmoid (x) y = Mul (x, s)", "y", ["s", "y"]),
        ("a = Add (x, three) b = Clip (a, zero, six) c = Mul (b, x) y = Div (c, six)", "c", None),
        ("a = Mul (x, half) y = Max (x, a)", "y", ["a", "y"]),
        ("a = Neg (x) b = Exp (a) c = Add (b, one) y = Div (one, c)", "y", ["b", "c", "y"]),
        ("a = Abs (x) b = Neg (a) c = Exp (b) d = Relu (x) y = Add (c, d)", "y", None),
        ("c = Less (x, zero) a = Mul (x, half) y = Where (c, a, x)", "y", None),
        ("c = Greater (x, half) y = Cast <to = 1> (c)", "y", ["c", "y"]),
        ("a = Relu (x) y = Mul (a, a)", "y", ["a", "y"]),
        ("a = Relu (x) n = Neg (x) b = Exp (n) y = Mul (a, b)", "y", ["a", "n", "b", "y"]),
    ],
)
def test_one_function_whatever_its_spelling(body, sink, nodes):
    (name,) = given = found(body)
    assert name == sink
    assert given[name][0] in ("x", "a")
    assert nodes is None or given[name][1] == nodes


def test_scalings_at_the_ends_are_left_to_the_network():
    body = "a = Mul (x, half) b = Tanh (a) c = Add (b, one) y = Mul (c, three)"
    assert found(body) == {"b": ("a", ["b"], None)}


def test_constants_may_differ_along_one_axis():
    assert found("y = PRelu (x, slope)") == {"y": ("x", ["y"], 1)}


def test_a_rectifier_that_ends_a_chain_is_an_activation_of_its_own():
    assert found("t = Tanh (x) y = Relu (t)") == {"t": ("x", ["t"], None)}


def test_two_functions_of_one_tensor():
    body = "s = Sigmoid (x) a = Mul (x, s) b = Conv (s, k) y = Add (a, b)"
    assert found(body) == {"s": ("x", ["s"], None), "a": ("x", ["s", "a"], None)}


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (x)",
        "a = Clip (x, zero, six) b = Mul (a, half) y = Relu (b)",
        "a = Mul (x, half) y = Add (a, x)",  # linear
        "a = Relu (x) y = Sub (a, x)",  # linear in two that time passes
        "y = Mul (x, w)",  # of two tensors
        "y = PRelu (x, places)",  # another function at every place
        "y = Softmax (x)",  # not element by element
    ],
)
def test_nothing_that_is_no_scalar_function(body):
    assert found(body) == {}


def test_a_product_of_two_functions_is_of_neither():
    body = "a = Sigmoid (x) b = Tanh (w) y = Mul (a, b)"
    assert found(body) == {"a": ("x", ["a"], None), "b": ("w", ["b"], None)}
