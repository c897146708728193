"""A Relu in front of a MaxPool and a quantiser moves to the quantiser."""

import pytest

from graphpass.passes.move_rectifier import MoveRectifier

CONSTANTS = "float s = {0.05}, uint8 z = {20}, float low = {-0.3}, float two = {2.0}"
POOL = "MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]>"
PAIR = "q = QuantizeLinear ({0}, s, z) y = DequantizeLinear (q, s, z)"


def net(body, behind, out="N,2,5,5"):
    pair = PAIR.format(behind)
    return f"g (float[N,2,5,5] x) => (float[{out}] y) <{CONSTANTS}> {{ {body} {pair} }}"


@pytest.mark.parametrize(
    ("activation", "op"),
    [
        ("Relu (x)", "Relu"),
        ("Clip (x, low, two)", "Clip"),
        ("Max (x, low)", "Max"),
        ("Min (two, x)", "Min"),
    ],
)
def test_moves_behind_pools_and_layout(bench, activation, op):
    body = f"r = {activation} p = {POOL} (r) t = Transpose <perm = [0,1,3,2]> (p) f = Flatten (t)"
    model = bench.changed(MoveRectifier, net(body, "f", "N,50"))
    ops = bench.ops(model)
    assert ops == ["MaxPool", "Transpose", "Flatten", op, "QuantizeLinear", "DequantizeLinear"]


def test_two_in_a_row(bench):
    body = f"a = Max (x, low) r = Min (a, two) p = {POOL} (r)"
    model = bench.changed(MoveRectifier, net(body, "p"))
    assert bench.ops(model)[:3] == ["Max", "MaxPool", "Min"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("beside it already", "p = Relu (x)"),
        ("another reader of it", f"r = Relu (x) m = {POOL} (r) p = Add (m, r)"),
        ("another reader of the pool", f"r = Relu (x) m = {POOL} (r) p = Add (m, m)"),
        ("averages", "r = Relu (x) p = AveragePool <kernel_shape = [1,1]> (r)"),
        ("no rectifier", f"r = Neg (x) p = {POOL} (r)"),
    ],
)
def test_near_misses(bench, name, body):
    bench.unchanged(MoveRectifier, net(body, "p"))


def test_no_quantiser(bench):
    text = f"g (float[N,2,5,5] x) => (float[N,2,5,5] y) {{ r = Relu (x) y = {POOL} (r) }}"
    bench.unchanged(MoveRectifier, text)
