"""Factors per channel become depthwise convolutions, and the last convolution a Gemm."""

import pytest

from graphpass.passes.flatten_classifier import FlattenClassifier
from graphpass.passes.spell_scalings import SpellScalings

WEIGHTS = (
    "float[2,1,1] gain = {2.0, -0.5}, float[1,2,1,1] offset = {1.0, 0.25}, float half = {0.5},"
    " float[5] column = {1.0, 2.0, 3.0, 4.0, 5.0},"
    " float[3,2,1,1] w = {1.0, -2.0, 0.5, 3.0, 0.25, -1.0}, float[3] b = {0.5, 0.0, -1.0}"
)


def net(body, out="N,2,3,5"):
    return f"agraph (float[N,2,3,5] x) => (float[{out}] y) <{WEIGHTS}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "y = Mul (x, gain)",
        "y = Mul (gain, x)",
        "y = Mul (x, half)",
        "y = Add (x, offset)",
        "a = Mul (x, gain) y = Add (offset, a)",
    ],
)
def test_factors_and_summands_become_one_convolution(bench, body):
    model = bench.changed(SpellScalings, net(body))
    assert bench.ops(model) == ["Conv"]


def test_a_product_that_others_read_keeps_its_sum(bench):
    model = bench.changed(
        SpellScalings, net("a = Mul (x, gain) c = Add (a, offset) y = Sub (c, a)")
    )
    assert bench.ops(model) == ["Conv", "Conv", "Sub"]


@pytest.mark.parametrize("body", ["y = Mul (x, column)", "y = Mul (x, x)", "y = Add (x, x)"])
def test_anything_else_stays(bench, body):
    model = bench.model(net(body))
    assert not SpellScalings()(model).modified


def test_weights_stay(bench):
    text = "i = Cast <to = 1> (integers) k = Mul (i, half) y = Conv (x, k)"
    text = net(text, "N,1,3,5").replace(
        "float half", "int8[1,2,1,1] integers = {3, -5}, float half"
    )
    bench.unchanged(SpellScalings, text)


TAIL = "g = GlobalAveragePool (x) c = Conv (g, w, b) "


def test_the_last_convolution_becomes_a_gemm(bench):
    model = bench.changed(FlattenClassifier, net(TAIL + "y = Flatten (c)", "N,3"))
    assert bench.ops(model) == ["GlobalAveragePool", "Flatten", "Gemm"]


@pytest.mark.parametrize(
    ("body", "out"),
    [
        ("c = Conv (x, w, b) y = Flatten (c)", "N,45"),
        (TAIL + "y = Flatten <axis = 2> (c)", "M,1"),
        (TAIL + "f = Flatten (c) d = Flatten (c) y = Add (f, d)", "N,3"),
    ],
)
def test_other_convolutions_stay(bench, body, out):
    model = bench.model(net(body, out))
    assert not FlattenClassifier()(model).modified
