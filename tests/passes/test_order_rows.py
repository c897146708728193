"""Rows of axes merged in front of the batch come in the order of the batch."""

import numpy as np
import pytest

from graphpass.passes.order_rows import OrderRows
from graphpass.timeflow import infer

HEAD = "t = Transpose <perm = [1,0,2]> (x) r = Relu (t)"


def net(body, out="N,6", batch="N", **targets):
    """x has axes N, 4, 6; `body` begins with r: 4, N, 6."""
    weights = ", ".join(
        f"int64[{len(sizes)}] {name} = {{{', '.join(map(str, sizes))}}}"
        for name, sizes in targets.items()
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (6, 6)), ("v", (3, 3))):
        if f", {name})" in body:
            values = ", ".join(f"{v:.3f}" for v in rng.normal(size=shape).ravel())
            weights += f", float[{shape[0]},{shape[1]}] {name} = {{{values}}}"
    return f"agraph (float[{batch},4,6] x) => (float[{out}] y) <{weights}> {{ {HEAD} {body} }}"


ROWS = net(
    "m = Reshape (r, rows) l = MatMul (m, w) s = Relu (l) p = Reshape (s, parts)"
    " u = Relu (p) y = ReduceMean <axes = [0], keepdims = 0> (u)",
    rows=(-1, 6),
    parts=(4, -1, 6),
)


def batches_in_front(model):
    """Do all tensors have their batch in front of what it is merged with?"""
    flow = infer(model, [n.outputs[0].name for n in model.graph.nodes if n.op == "Relu"][1:])
    return not flow.refused


def test_rows_are_ordered_and_taken_apart(bench):
    assert not batches_in_front(bench.model(bench.proto(ROWS)))
    model = bench.changed(OrderRows, ROWS)
    assert [op for op in bench.ops(model) if op in ("Transpose", "Reshape")] == [
        *("Transpose", "Transpose", "Reshape", "Reshape", "Transpose")
    ]
    assert batches_in_front(model)


@pytest.mark.parametrize(("target", "out"), [((4, -1, 6), "N,6"), ((4, -1, 3), "M,3")])
def test_rows_that_are_cut_between(bench, target, out):
    """Parts of a row become rows, and stay so behind the batch or not."""
    body = (
        "m = Reshape (r, rows) c = Reshape (m, half) l = MatMul (c, v) s = Relu (l)"
        " p = Reshape (s, parts) u = Relu (p) y = ReduceMean <axes = [0], keepdims = 0> (u)"
    )
    text = net(body, out, rows=(-1, 6), half=(-1, 3), parts=target)
    assert batches_in_front(bench.changed(OrderRows, text))


def test_flatten_and_two_axes(bench):
    text = net(
        "q = Reshape (r, four) m = Flatten <axis = 3> (q) l = MatMul (m, w) s = Relu (l)"
        " p = Reshape (s, parts) u = Relu (p) y = ReduceMean <axes = [0, 1], keepdims = 0> (u)",
        four=(2, 2, -1, 6),
        parts=(2, 2, -1, 6),
    )
    assert batches_in_front(bench.changed(OrderRows, text))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_literal_batch(bench, size):
    text = ROWS.replace("N,", f"{size},").replace("4, -1, 6", f"4, {size}, 6")
    bench.changed(OrderRows, text, batches=(size,))


@pytest.mark.parametrize(
    "body",
    [
        "m = Reshape (r, rows) y = MatMul (m, w)",  # rows are the output
        "m = Reshape (r, rows) a = CumSum (m, at0) y = Relu (a)",  # from row to row
        "m = Reshape (r, rows) a = ReduceSum <axes = [0]> (m) y = Relu (a)",
        "m = Reshape (r, rows) p = Reshape (m, other) y = Relu (p)",  # two of four
    ],
)
def test_rows_that_may_not_be_reordered_stay(bench, body):
    targets = {"rows": (-1, 6)}
    if "other" in body:
        targets["other"] = (2, -1, 6)
    text = net(body, "A,B,C" if "other" in body else "A,B", **targets)
    bench.unchanged(
        OrderRows,
        text.replace("at0)", "zero)").replace("<int64", "<int64[1] zero = {0}, int64"),
        11,
    )


def test_what_is_merged_behind_the_batch_stays(bench):
    text = (
        "agraph (float[N,4,6] x) => (float[N,4,6] y) <int64[2] rows = {-1, 6}, int64[3] parts"
        " = {-1, 4, 6}> { r = Relu (x) m = Reshape (r, rows) s = Relu (m) y = Reshape (s, parts) }"
    )
    bench.unchanged(OrderRows, text)


def test_without_an_activation_nothing_is_reordered(bench):
    text = (
        ROWS.replace("r = Relu (t)", "r = Neg (t)")
        .replace("s = Relu (l) p", "s = Neg (l) p")
        .replace("u = Relu", "u = Neg")
    )
    bench.unchanged(OrderRows, text)
