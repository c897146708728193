"""A literal batch size becomes the symbol N."""

import numpy as np
import pytest

from graphpass.model import to_proto
from graphpass.passes.fold_shapes import FoldShapes
from graphpass.passes.free_batch import FreeBatch


def freed(bench, text, opset=17, size=1):
    """Free the batch: the same at the literal size, and sample by sample at N = 3."""
    model = bench.changed(FreeBatch, text, opset, batches=(size,))
    (three,) = bench.run(model, [3 * size])
    proto = to_proto(model)
    feeds = bench.feeds(proto, 3 * size)
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input} == {"N"}
    for part in range(3):
        single = {k: v[part * size : (part + 1) * size] for k, v in feeds.items()}
        for whole, one in zip(
            three, bench.run_feeds(bench.proto(text, opset), single), strict=True
        ):
            np.testing.assert_allclose(
                whole[part * size : (part + 1) * size], one, rtol=0, atol=1e-5
            )
    return model


def targets(model):
    return [n.inputs[1].values.tolist() for n in model.graph.nodes if n.op == "Reshape"]


@pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 17, 18, 26])
def test_literal_one_in_the_input_and_in_a_target(bench, opset):
    model = freed(
        bench,
        "agraph (float[1,2,3] x) => (float[1,6] y) <int64[2] t = {1, 6}>"
        " { a = Neg (x) y = Reshape (a, t) }",
        opset,
    )
    assert targets(model) == [[-1, 6]]
    assert [d.dim_param for d in to_proto(model).graph.output[0].type.tensor_type.shape.dim] == [
        "N",
        "",
    ]


@pytest.mark.parametrize("target", ["{1, -1}", "{1, 6}", "{0, -1}", "{-1, 6}"])
def test_spellings_of_a_target(bench, target):
    freed(
        bench,
        f"agraph (float[1,2,3] x) => (float[1,6] y) <int64[2] t = {target}>"
        " { y = Reshape (x, t) }",
    )


def test_a_batch_of_four(bench):
    model = freed(
        bench,
        "agraph (float[4,2,3] x) => (float[4,6] y) <int64[2] t = {4, 6}> { y = Reshape (x, t) }",
        size=4,
    )
    assert targets(model) == [[-1, 6]]


def test_several_inputs_of_one_size(bench):
    freed(
        bench,
        "agraph (float[1,4] x, float[1,2,2] z) => (float[1,4] y) <int64[2] t = {1, 4}>"
        " { a = Reshape (z, t) y = Add (x, a) }",
    )


def test_shape_arithmetic_of_another_tensor_then_runs_at_any_size(bench):
    text = (
        "agraph (float[1,2,3] x, float[1,6] z) => (float[1,6] y)"
        " <int64 zero = {0}, int64[1] at0 = {0}, int64[1] rest = {-1}>"
        " { s = Shape (z) n = Gather (s, zero) v = Unsqueeze (n, at0)"
        "  t = Concat <axis = 0> (v, rest) a = Reshape (x, t) y = Add (a, z) }"
    )
    model = bench.changed(FoldShapes, text, batches=(1,))
    assert FreeBatch()(model).modified
    assert bench.ops(model) == ["Reshape", "Add"]
    (found,) = bench.run(model, [3])
    feeds = bench.feeds(to_proto(model), 3)
    np.testing.assert_allclose(found[0], feeds["x"].reshape(3, 6) + feeds["z"], rtol=1e-6)


def test_target_that_several_read_is_not_edited(bench):
    model = freed(
        bench,
        "agraph (float[1,2,3] x) => (float[1,6] y) <int64[2] t = {1, 6},"
        " float[2,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>"
        " { a = Reshape (x, t) b = Reshape (w, t) y = Add (a, b) }",
    )
    assert targets(model) == [[-1, 6], [1, 6]]


SHUFFLE = """agraph (float[1,4,3] x) => (float[1,4,3] y)
    <int64[3] apart = {2, 2, 3}, int64[4] back = {2, -1, 2, 3}, int64 at0 = {0}, int64 at1 = {1}>
    { a = Reshape (x, apart) t = Transpose <perm = [1,0,2]> (a) b = Reshape (t, back)
      c = Gather <axis = 0> (b, at0) d = Gather <axis = 0> (b, at1)
      e = Neg (d) y = Concat <axis = 1> (c, e) }"""


def test_batch_that_is_merged_and_moved(bench):
    """A channel shuffle: two groups of two channels, the batch first in front, then between."""
    model = freed(bench, SHUFFLE)
    assert targets(model) == [[-1, 2, 3], [2, -1, 2, 3]]


def test_batch_behind_another_axis(bench):
    model = freed(
        bench,
        """agraph (float[1,4,3] x) => (float[1,3,4] y) <int64[4] t = {2, 2, 1, 3},
            int64[3] u = {4, 1, 3}> { a = Transpose <perm = [1,0,2]> (x) b = Reshape (a, t)
            c = Reshape (b, u) y = Transpose <perm = [1,2,0]> (c) }""",
    )
    assert targets(model) == [[2, 2, -1, 3], [4, -1, 3]]


def test_expand_and_slice(bench):
    freed(
        bench,
        """agraph (float[1,1,3] x) => (float[1,4,3] y) <int64[3] t = {1, 4, 3},
            int64[2] from = {0, 0}, int64[2] to = {1, 3}> {
            a = Expand (x, t) b = Slice (a, from, to) c = Softmax <axis = -1> (b)
            y = Concat <axis = 1> (c, x) }""",
    )


@pytest.mark.parametrize(
    ("body", "out"),
    [
        ("a = ReduceMean <keepdims = 1> (x) y = Sub (x, a)", "1,2,3"),
        ("a = ReduceMax <keepdims = 1> (x) y = Sub (x, a)", "1,2,3"),
        ("y = Softmax <axis = 0> (x)", "1,2,3"),
        ("y = Gather <axis = 0> (x, at0)", "2,3"),
        ("y = Reshape (x, t)", "2,3"),
        ("s = Softmax <axis = 2> (x) y = Squeeze <axes = [0]> (s)", "2,3"),
        ("y, i = TopK <axis = 0> (x, one)", "1,2,3"),
        ("y = Compress <axis = 0> (x, mask)", "1,2,3"),
    ],
)
def test_what_may_mix_samples_keeps_its_batch_size(bench, body, out):
    text = (
        f"agraph (float[1,2,3] x) => (float[{out}] y) <int64 at0 = {{0}}, int64[1] one = {{1}},"
        f" int64[2] t = {{2, 3}}, bool[1] mask = {{1}}> {{ {body} }}"
    )
    model = bench.model(bench.proto(text, 11))
    FreeBatch()(model)
    assert model.graph.inputs[0].shape == [1, 2, 3]
    bench.same_outputs(bench.proto(text, 11), to_proto(model), [1])


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,2,3] x) => (float[N,6] y) <int64[2] t = {-1, 6}> { y = Reshape (x, t) }",
        "(float[1,2] x, float[2,2] z) => (float[2,2] y) { y = Add (x, z) }",
        "(float[1,2] x, float[N,2] z) => (float[N,2] y) { y = Add (x, z) }",
        "(float x) => (float y) { y = Neg (x) }",
    ],
    ids=["symbolic already", "sizes differ", "literal and symbol", "scalar"],
)
def test_no_common_literal_size(bench, text):
    bench.unchanged(FreeBatch, f"agraph {text}")


def test_target_that_stays_without_effect_ends(bench):
    """The samples are joined before the Reshape: its target can be written, to no avail."""
    model = bench.model(
        "agraph (float[1,2,3] x) => (float[1,12] y) <int64[2] t = {1, 12}>"
        " { a = Concat <axis = 0> (x, x) y = Reshape (a, t) }"
    )
    FreeBatch()(model)
    assert [n.op for n in model.graph.nodes] == ["Concat", "Reshape"]


CONCAT = """agraph (float[2,1,3] x) => (float[2,2,3] y)
    <float[2,1,3] c = {%s}> { y = Concat <axis = 1> (c, x) }"""
SUM = "agraph (float[2,3] x) => (float[2,3] y) <float[2,3] c = {%s}> { y = Add (x, c) }"


def test_a_constant_with_the_same_row_for_every_sample_is_joined(bench):
    model = freed(bench, CONCAT % "1, 2, 3, 1, 2, 3", size=2)
    assert sorted(bench.ops(model)) == ["Concat", "Concat", "Expand", "Gather", "Shape"]


def test_of_one_sample_too(bench):
    freed(bench, CONCAT.replace("[2,", "[1,") % "1, 2, 3")


def test_a_constant_with_other_rows_keeps_the_batch(bench):
    bench.unchanged(FreeBatch, CONCAT % "1, 2, 3, 1, 2, 4")


@pytest.mark.parametrize("op", ["Add", "Mul", "Max"])
def test_a_constant_with_the_same_row_is_broadcast(bench, op):
    model = freed(bench, SUM.replace("Add", op) % "1, 2, 3, 1, 2, 3", size=2)
    assert bench.ops(model) == [op]
    (constant,) = [t for t in model.graph.nodes[0].inputs if t.name != "x"]
    assert constant.shape == (1, 3)


def test_other_rows_are_not_broadcast(bench):
    text = (
        "agraph (float[2,3] x) => (float[2,3] y) <float[2,3] c = {1,2,3,1,2,4}> { y = Add (x, c) }"
    )
    bench.unchanged(FreeBatch, text)
