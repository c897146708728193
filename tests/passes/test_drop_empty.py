"""Operands of a Concat that have no elements go away."""

import pytest

from graphpass.passes.drop_empty import DropEmpty

SIZES = "int64[1] zero = {0}, int64[1] two = {2}, int64[1] axis = {1}"


def net(body, out="N,3"):
    return f"g (float[N,3] x) => (float[{out}] y) <{SIZES}> {{ {body} }}"


@pytest.mark.parametrize("axis", [1, -1])
def test_roll_by_nothing(bench, axis):
    body = f"none = Slice (x, zero, zero, axis) y = Concat <axis = {axis}> (x, none)"
    model = bench.changed(DropEmpty, net(body))
    assert bench.ops(model) == ["Concat"]
    assert [tensor.name for tensor in model.graph.nodes[0].inputs] == ["x"]


@pytest.mark.parametrize(
    ("name", "body", "out"),
    [
        ("all are full", "a = Slice (x, zero, two, axis) y = Concat <axis = 1> (x, a)", "N,5"),
        ("all are empty", "a = Slice (x, zero, zero, axis) y = Concat <axis = 1> (a, a)", "N,0"),
        (
            "empty along another axis",
            "a = Slice (x, two, two, zero) y = Concat <axis=1> (a)",
            "M,3",
        ),
    ],
)
def test_near_misses(bench, name, body, out):
    bench.unchanged(DropEmpty, net(body, out))
