"""Shape arithmetic becomes constants, with the batch written as 0 or -1."""

import numpy as np
import pytest

from graphpass.passes.fold_shapes import FoldShapes

NET = "agraph (float[N,2,3,4] x) => (float[{out}] y) <{weights}> {{ {body} }}"


def net(out, weights, body):
    return NET.format(out=out, weights=weights, body=body)


def target(model, op="Reshape"):
    """The constant that the only Reshape reshapes to."""
    (node,) = [n for n in model.graph.nodes if n.op == op]
    return node.inputs[1].values.tolist()


INT = "int64 zero = {0}, int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] rest = {-1}"


@pytest.mark.parametrize("opset", [8, 9, 11, 12])
def test_batch_from_the_shape_of_the_same_tensor(bench, opset):
    model = bench.changed(
        FoldShapes,
        net(
            "N,24",
            INT,
            "s = Shape (x) n = Gather (s, zero) v = Unsqueeze <axes = [0]> (n)"
            " t = Concat <axis = 0> (v, rest) y = Reshape (x, t)",
        ),
        opset,
    )
    assert bench.ops(model) == ["Reshape"]
    assert target(model) == [0, -1]


@pytest.mark.parametrize("opset", [13, 17, 18, 26])
def test_batch_from_the_shape_of_another_tensor(bench, opset):
    model = bench.changed(
        FoldShapes,
        net(
            "N,M",
            INT + ", float[5,2,1,1] w = {1,2,3,4,5,6,7,8,9,10}",
            "s = Shape (x) n = Gather (s, zero) v = Unsqueeze (n, at0)"
            " t = Concat <axis = 0> (v, rest) c = Conv (x, w) y = Reshape (c, t)",
        ),
        opset,
        atol=1e-4,
    )
    assert bench.ops(model) == ["Conv", "Reshape"]
    assert target(model) == [0, -1]


def test_batch_that_is_not_in_front_becomes_minus_one(bench):
    # In time the batch axis is T*N, which the 0 copies and the computed N would not.
    model = bench.changed(
        FoldShapes,
        net(
            "24,N",
            INT + ", int64[1] full = {24}",
            "s = Shape (x) n = Gather (s, at0) t = Concat <axis = 0> (full, n) y = Reshape (x, t)",
        ),
    )
    assert target(model) == [24, -1]


@pytest.mark.parametrize(
    ("opset", "cut"),
    [
        (8, "Slice <starts = [1], ends = [9]> (s)"),
        (9, "Slice <axes = [0], starts = [1], ends = [9]> (s)"),
        (11, "Slice (s, at1, high)"),
        (17, "Slice (s, at1, high, at0, at1)"),
    ],
)
def test_sizes_that_are_numbers_are_folded(bench, opset, cut):
    model = bench.changed(
        FoldShapes,
        net(
            "N,2,3,4",
            INT + ", int64[1] high = {9}",
            f"s = Shape (x) k = {cut} t = Concat <axis = 0> (rest, k)"
            " f = Flatten (x) y = Reshape (f, t)",
        ),
        opset,
    )
    assert bench.ops(model) == ["Flatten", "Reshape"]
    assert target(model) == [-1, 2, 3, 4]


@pytest.mark.parametrize("opset", [15, 18, 26])
def test_part_of_a_shape_by_attributes(bench, opset):
    model = bench.changed(
        FoldShapes,
        net(
            "N,2,12",
            INT,
            "k = Shape <start = 1, end = -2> (x) t = Concat <axis = 0> (rest, k, m)"
            " y = Reshape (x, t)",
        ).replace("> {", ", int64[1] m = {12}> {", 1),
        opset,
    )
    assert target(model) == [-1, 2, 12]


def test_arithmetic_on_sizes(bench):
    model = bench.changed(
        FoldShapes,
        net(
            "M,8",
            INT + ", int64[1] two = {2}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}",
            "s = Shape (x) n = Gather (s, at0) c = Gather (s, i1) h = Gather (s, i2)"
            " w = Gather (s, i3) a = Mul (c, h) b = Mul (a, w) d = Div (b, i3) m = Mul (n, i3)"
            " t = Concat <axis = 0> (m, d) y = Reshape (x, t)",
        ),
    )
    assert bench.ops(model) == ["Reshape"]
    assert target(model) == [-1, 8]


@pytest.mark.parametrize(("size", "shift", "rows"), [("NN", "Mul (n, two)", 2)])
def test_product_of_a_symbol_is_another_symbol(bench, size, shift, rows):
    # Python's "N" * 2 is "NN", which is the name of another axis here.
    model = bench.changed(
        FoldShapes,
        f"agraph (float[N,6] x, float[{size},6] z) => (float[M,3] y, float[{size},6] v)"
        " <int64[1] at0 = {0}, int64[1] two = {2}, int64[1] three = {3}>"
        f" {{ s = Shape (x) n = Gather (s, at0) m = {shift} t = Concat <axis = 0> (m, three)"
        "  a = Identity (x) y = Reshape (a, t) v = Neg (z) }",
        batches=(2, 4),
    )
    (node,) = [n for n in model.graph.nodes if n.op == "Reshape"]
    assert node.inputs[1].values.tolist() == [-1, 3]


@pytest.mark.parametrize(
    ("opset", "squeeze"), [(11, "Squeeze <axes = [0]> (g)"), (17, "Squeeze (g, at0)")]
)
def test_squeeze_drops_its_axes_only(bench, opset, squeeze):
    model = bench.changed(
        FoldShapes,
        net(
            "N,24",
            INT + ", int64[1,1] first = {0}",
            f"s = Shape (x) g = Gather (s, first) v = {squeeze}"
            " t = Concat <axis = 0> (v, rest) y = Reshape (x, t)",
        ),
        opset,
    )
    assert target(model) == [0, -1]


def test_division_rounds_towards_zero_as_in_onnx(bench):
    # (2 - 5) / 2 is -1 in ONNX; the floor would be -2.
    model = bench.changed(
        FoldShapes,
        net(
            "N,2,12",
            INT + ", int64[1] five = {5}, int64[1] two = {2}",
            "s = Shape (x) c = Gather (s, at1) d = Sub (c, five) e = Div (d, two)"
            " t = Concat <axis = 0> (at0, two, e) y = Reshape (x, t)",
        ),
    )
    assert target(model) == [0, 2, -1]


def test_cast_on_the_way(bench):
    model = bench.changed(
        FoldShapes,
        net(
            "N,24",
            INT,
            "s = Shape (x) i = Cast <to = 6> (s) j = Gather (i, at0) n = Cast <to = 7> (j)"
            " t = Concat <axis = 0> (n, rest) y = Reshape (x, t)",
        ),
    )
    assert target(model) == [0, -1]


TWO_SYMBOLS = (
    "agraph (float[N,K,4] x) => (float[A,B,C] y) <int64[1] at0 = {0}, int64[1] four = {4},"
    " int64[1] at1 = {1}> { s = Shape (x) n = Gather (s, at0) k = Gather (s, at1)"
    " t = Concat <axis = 0> (%s) y = Reshape (x, t) }"
)


def test_symbol_that_stays_in_its_place_beside_one_that_moves(bench):
    model = bench.changed(FoldShapes, TWO_SYMBOLS % "n, four, k")
    assert target(model) == [0, 4, -1]


def test_two_symbols_that_move_stay_computed(bench):
    bench.unchanged(FoldShapes, TWO_SYMBOLS % "four, n, k")


def test_symbol_beside_a_minus_one_in_another_place(bench):
    """The rest is a number, so that the symbol may have the -1."""
    model = bench.changed(
        FoldShapes,
        net(
            "24,N",
            INT,
            "s = Shape (x) n = Gather (s, at0) t = Concat <axis = 0> (rest, n) y = Reshape (x, t)",
        ),
    )
    (node,) = model.graph.nodes
    assert node.inputs[1].values.tolist() == [24, -1]


def test_sizes_that_depend_on_data_stay_computed(bench):
    bench.unchanged(
        FoldShapes,
        "agraph (float[N,6] x, int64[2] t) => (float[A,B] y) <int64[2] one = {1, 1}>"
        " { u = Add (t, one) y = Reshape (x, u) }",
    )


def test_shape_that_is_an_output_keeps_its_name(bench):
    proto = bench.proto(
        net("N,24", INT, "s = Shape (x) k = Gather (s, at1) y = Flatten (x)").replace(
            "y) <", "y, int64[1] k) <"
        )
    )
    model = bench.model(proto)
    FoldShapes()(model)
    (found,) = bench.run(model, [3])
    np.testing.assert_array_equal(found[1], [2])


def test_shared_constants_of_the_arithmetic_are_left_alone(bench):
    model = bench.changed(
        FoldShapes,
        net(
            "N,24",
            INT,
            "s = Shape (x) n = Gather (s, at0) t = Concat <axis = 0> (n, rest)"
            " a = Reshape (x, t) u = Concat <axis = 0> (rest, m) b = Reshape (x, u)"
            " d = Flatten (b) y = Add (a, d)",
        ).replace("> {", ", int64[1] m = {24}> {", 1),
    )
    targets = [n.inputs[1] for n in model.graph.nodes if n.op == "Reshape"]
    assert sorted(t.values.tolist() for t in targets) == [[-1, 24], [0, -1]]


def resized(mode, sizes, policy=""):
    return (
        f"agraph (float[N,3,5,6] x) => (float[N,3,{sizes[0]},{sizes[1]}] y) <int64[1] at0 = {{0}},"
        f" int64[1] two = {{2}}, int64[2] big = {{{sizes[0]}, {sizes[1]}}}>"
        " { s = Shape (x) n = Slice (s, at0, two) t = Concat <axis = 0> (n, big)"
        f' y = Resize <mode = "{mode}"{policy}> (x, "", "", t) }}'
    )


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [("linear", (9, 8)), ("cubic", (9, 7)), ("linear", (3, 5)), ("nearest", (10, 9))],
)
def test_sizes_of_a_resize_become_scales(bench, mode, sizes):
    # 9 / 5 in float32 is less than 1.8: in exact arithmetic five pixels would become eight.
    model = bench.changed(FoldShapes, resized(mode, sizes))
    assert bench.ops(model) == ["Resize"]
    np.testing.assert_allclose(
        model.graph.nodes[0].inputs[2].values, [1, 1, sizes[0] / 5, sizes[1] / 6], rtol=1e-6
    )
    assert len(model.graph.nodes[0].inputs) == 3


def test_sizes_of_a_resize_that_may_keep_the_ratio(bench):
    """PyTorch's exporter writes the policy out, also the default."""
    policy = ', keep_aspect_ratio_policy = "stretch"'
    model = bench.changed(FoldShapes, resized("linear", (9, 8), policy), 18)
    assert bench.ops(model) == ["Resize"]
    smaller = resized("linear", (9, 8), policy.replace("stretch", "not_larger"))
    kept = bench.model(bench.proto(smaller, 18))
    FoldShapes()(kept)
    assert "Concat" in bench.ops(kept)


def test_nearest_pixels_by_a_ratio_that_rounds_down_stay_computed(bench):
    model = bench.model(bench.proto(resized("nearest", (9, 8))))
    FoldShapes()(model)
    assert "Concat" in bench.ops(model)


@pytest.mark.parametrize("opset", [8, 13])
def test_target_of_an_expand_keeps_the_batch_by_one(bench, opset):
    model = bench.changed(
        FoldShapes,
        "agraph (float[N,1,3] x) => (float[N,4,3] y) <int64[1] at0 = {0}, int64[2] rest = {4, 3}>"
        " { s = Shape (x) n = Gather (s, at0) t = Concat <axis = 0> (n, rest) y = Expand (x, t) }",
        opset,
    )
    assert target(model, "Expand") == [1, 4, 1]
