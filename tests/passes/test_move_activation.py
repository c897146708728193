"""An activation behind a MaxPool moves in front of it."""

import pytest

from graphpass.model import to_proto
from graphpass.passes.move_activation import MoveActivation

WEIGHTS = (
    "float zero = {0.0}, float two = {2.0}, float neg = {-0.5}, float[1] theta = {2.0},"
    " float[2,1,1] thetas = {1.0, 2.0}, float levels = {4.0}"
)
PADDED = "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"


def net(body, out="N,2,3,3"):
    return f"agraph (float[N,2,5,5] x) => (float[{out}] y) <{WEIGHTS}> {{ {body} }}"


@pytest.mark.parametrize(
    ("opset", "activation", "op"),
    [
        (8, "Relu (p)", "Relu"),
        (8, "Clip <min = 0.0, max = 2.0> (p)", "Clip"),
        (11, "Clip (p, zero, two)", "Clip"),
        (12, "Clip (p, neg, two)", "Clip"),
        (13, "graphpass.QCFS (p, theta, levels)", "QCFS"),
        (18, "Relu (p)", "Relu"),
        (26, "Clip (p, zero, two)", "Clip"),
    ],
)
def test_moves_in_front_of_a_pool_with_padding(bench, opset, activation, op):
    proto = bench.with_functions(net(f"p = {PADDED} (x) y = {activation}"), opset)
    model = bench.changed(MoveActivation, proto)
    assert bench.ops(model) == [op, "MaxPool"]


@pytest.mark.parametrize("opset", [8, 17, 26])
def test_moves_in_front_of_a_global_pool(bench, opset):
    model = bench.changed(
        MoveActivation, net("p = GlobalMaxPool (x) y = Relu (p)", "N,2,1,1"), opset
    )
    assert bench.ops(model) == ["Relu", "GlobalMaxPool"]


def test_moves_in_front_of_a_pool_and_what_flattens_it(bench):
    body = f"p = {PADDED} (x) t = Transpose <perm = [0,2,3,1]> (p) f = Flatten (t) y = Relu (f)"
    model = bench.changed(MoveActivation, net(body, "N,18"))
    assert bench.ops(model) == ["Relu", "MaxPool", "Transpose", "Flatten"]


@pytest.mark.parametrize("body", ["y = Flatten (f)", "y = Add (f, f)"])
def test_stays_behind_a_layout_that_others_read(bench, body):
    text = f"p = {PADDED} (x) f = Flatten (p) r = Relu (f) t = Add (r, f) {body}"
    bench.unchanged(MoveActivation, net(text, "N,18"))


def test_moves_in_front_of_several_pools(bench):
    body = f"p = {PADDED} (x) q = {PADDED} (p) y = Relu (q)"
    model = bench.changed(MoveActivation, net(body, "N,2,2,2"))
    assert bench.ops(model) == ["Relu", "MaxPool", "MaxPool"]


def test_every_node_keeps_its_own_notes(bench):
    model = bench.changed(MoveActivation, net(f"p = {PADDED} (x) y = Relu (p)"))
    said = {node.op_type: node.doc_string for node in to_proto(model).graph.node}
    assert said == {"Relu": "about Relu y", "MaxPool": "about MaxPool p"}


def test_shared_bounds_are_left_alone(bench):
    body = f"p = {PADDED} (x) q = Clip (p, zero, two) y = Add (q, two)"
    model = bench.changed(MoveActivation, net(body))
    assert bench.ops(model) == ["Clip", "MaxPool", "Add"]


@pytest.mark.parametrize(
    "body",
    [
        f"p = {PADDED} (x) a = Relu (p) y = Add (a, p)",
        f"p = {PADDED} (x) y = Neg (p)",
        f"p = {PADDED} (x) y = Sigmoid (p)",
        f"a = Relu (x) y = {PADDED} (a)",
        "p = AveragePool <kernel_shape = [3, 3]> (x) y = Relu (p)",
        f"p, i = {PADDED} (x) y = Relu (p)",
    ],
    ids=["two readers", "decreases", "not an activation", "in front", "mean", "indices"],
)
def test_near_misses(bench, body):
    bench.unchanged(MoveActivation, net(body))


def test_pool_that_is_an_output_stays(bench):
    text = net(f"p = {PADDED} (x) y = Relu (p)").replace("y) <", "y, float[N,2,3,3] p) <")
    bench.unchanged(MoveActivation, text)


def test_bound_that_is_an_input_stays(bench):
    text = net(f"p = {PADDED} (x) y = Clip (p, zero, top)").replace("x) =>", "x, float top) =>")
    bench.unchanged(MoveActivation, text)


def test_threshold_for_each_channel_stays(bench):
    text = net(f"p = {PADDED} (x) y = graphpass.QCFS (p, thetas, levels)")
    bench.unchanged(MoveActivation, bench.with_functions(text))
