"""What an activation is: intervals, bounds and channels."""

import math

import numpy as np
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from graphpass.activation import bounds, channel_count, is_convertible, upper_bound
from graphpass.model import from_proto, infer_shapes

INF = math.inf
WEIGHTS = (
    "float zero = {0.0}, float six = {6.0}, float[1] six1 = {6.0}, float[2] two = {1.0, 2.0},"
    " float big = {3.4028234663852886e38}, float low = {-3.4028234663852886e38},"
    " float neg = {-1.0}, float[1,1,1] wide = {0.0}, float t = {4.0}"
)


def node(call, opset=17, dtype="float"):
    model = from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}, "graphpass": 1]>'
            f" g ({dtype}[N,2] x, {dtype} k) => ({dtype} y) <{WEIGHTS}> {{ y = {call} }}"
        )
    )
    infer_shapes(model)
    (found,) = model.graph.nodes
    return found


@pytest.mark.parametrize(
    ("opset", "call", "interval"),
    [
        (8, "Relu (x)", (0, INF)),
        (26, "Relu (x)", (0, INF)),
        (8, "Clip <min = 0.0, max = 6.0> (x)", (0, 6)),
        (9, "Clip <max = 6.0> (x)", (-INF, 6)),
        (10, "Clip (x)", (-INF, INF)),
        (9, "Clip <min = 0.0, max = 3.4028234663852886e38> (x)", (0, INF)),
        (9, "Clip <min = -3.4028234663852886e38, max = 1.0> (x)", (-INF, 1)),
        (9, "Clip <min = 0.0, max = 1e35> (x)", (0, INF)),
        (11, "Clip (x, zero, six)", (0, 6)),
        (11, "Clip (x, zero, six1)", (0, 6)),
        (17, 'Clip (x, "", six)', (-INF, 6)),
        (17, "Clip (x, neg)", (-1, INF)),
        (17, "Clip (x)", (-INF, INF)),
        (26, "Clip (x, low, big)", (-INF, INF)),
        (17, "Max (x, zero)", (0, INF)),
        (17, "Max (six1, x)", (6, INF)),
        (17, "Min (x, six)", (-INF, 6)),
        (8, "Min (six, x)", (-INF, 6)),
    ],
)
def test_intervals(opset, call, interval):
    assert bounds(node(call, opset)) == interval


@pytest.mark.parametrize(
    "call",
    [
        "Clip (x, zero, k)",
        "Clip (x, k, six)",
        "Clip (x, zero, two)",
        "Max (x, two)",
        "Max (x, k)",
        "Max (x)",
        "Max (x, zero, six)",
        "Max (zero, six)",
        "Min (x, wide)",
        "Sigmoid (x)",
        "LeakyRelu (x)",
        "graphpass.Relu (x)",
    ],
)
def test_no_interval(call):
    if call.startswith("graphpass"):
        found = node("Relu (x)")
        found.domain = "graphpass"
    else:
        found = node(call)
    assert bounds(found) is None


@pytest.mark.parametrize("call", ["Max (x, k)", "Relu (x)", "Clip (x)"])
def test_integers_are_no_activations(call):
    assert bounds(node(call, dtype="int64")) is None
    assert not is_convertible(node(call, dtype="int64"))


def test_node_without_inputs():
    assert bounds(gs.Node("Max")) is None


@pytest.mark.parametrize(
    ("call", "convertible"),
    [
        ("Clip (x, zero, zero)", False),
        ("Clip (x, zero, neg)", False),
        ("Relu (x)", True),
        ("Clip (x, zero, six)", True),
        ("Clip (x, neg, six)", False),
        ("Clip (x, zero, k)", False),
        ("Max (x, zero)", False),
        ("Sigmoid (x)", False),
        ("graphpass.QCFS (x, six, t)", True),
        ("graphpass.ClipReLU (x, six)", True),
        ("graphpass.RepeatInTime (x, t)", False),
    ],
)
def test_convertible(call, convertible):
    assert is_convertible(node(call)) is convertible


@pytest.mark.parametrize(
    ("call", "limit"),
    [("Relu (x)", None), ("Clip (x, zero, six)", 6.0), ("graphpass.QCFS (x, six, t)", None)],
)
def test_upper_bound(call, limit):
    assert upper_bound(node(call)) == limit


@pytest.mark.parametrize(
    ("shape", "axis", "count"),
    [
        (["N", 3, 4], 1, 3),
        (["N", 3, 4], 2, 4),
        (["N", 3, 4], None, 1),
        (["N", 3, 4], 0, 1),
        (["N", 3], 2, 1),
        ([], 1, 1),
        (None, 1, 1),
    ],
)
def test_channel_count(shape, axis, count):
    assert channel_count(gs.Variable("x", np.float32, shape), axis) == count
