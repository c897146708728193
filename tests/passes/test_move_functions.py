"""A scalar function behind a MaxPool moves in front of it."""

import pytest

from graphpass.passes.move_functions import MoveFunctions

WEIGHTS = "float[2,1,1] slope = {0.25, 0.5}, float[1,3] rows = {0.25, 0.5, 0.75}, float k = {0.1}"
PADDED = "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"


def net(body, out="N,2,3,3"):
    return f"agraph (float[N,2,5,5] x) => (float[{out}] y) <{WEIGHTS}> {{ {body} }}"


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        ("y = LeakyRelu (p)", ["LeakyRelu"]),
        ("y = PRelu (p, slope)", ["PRelu"]),
        ("y = Sigmoid (p)", ["Sigmoid"]),
        ("a = Mul (p, k) y = Max (a, p)", ["Mul", "Max"]),
        ("a = Tanh (p) y = Add (a, p)", ["Tanh", "Add"]),
        ("a = Exp (p) b = Add (a, k) y = Log (b)", ["Exp", "Add", "Log"]),
    ],
)
@pytest.mark.parametrize("opset", [9, 17])
def test_moves_in_front_of_a_pool_with_padding(bench, function, ops, opset):
    model = bench.changed(MoveFunctions, net(f"p = {PADDED} (x) {function}"), opset)
    assert bench.ops(model) == [*ops, "MaxPool"]


def test_moves_in_front_of_several_pools(bench):
    body = f"p = {PADDED} (x) q = {PADDED} (p) y = Tanh (q)"
    model = bench.changed(MoveFunctions, net(body, "N,2,2,2"))
    assert bench.ops(model) == ["Tanh", "MaxPool", "MaxPool"]


@pytest.mark.parametrize(
    "body",
    [
        f"p = {PADDED} (x) s = Sigmoid (p) y = Mul (p, s)",  # turns
        f"p = {PADDED} (x) n = Abs (p) y = Exp (n)",  # turns
        f"p = {PADDED} (x) a = Exp (p) y = Reciprocal (a)",  # falls
        f"p = {PADDED} (x) y = PRelu (p, rows)",  # other functions for other columns
        f"p = {PADDED} (x) a = Tanh (p) b = Transpose <perm = [0,1,3,2]> (p) y = Add (a, b)",
        "p = AveragePool <kernel_shape = [3, 3]> (x) y = Tanh (p)",
    ],
)
def test_near_misses_stay(bench, body):
    bench.unchanged(MoveFunctions, net(body))
