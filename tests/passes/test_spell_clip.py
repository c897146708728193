"""One spelling for rectifiers: Relu when there is no upper bound, else Clip(0, c)."""

import numpy as np
import pytest

from graphpass.activation import bounds
from graphpass.model import to_proto
from graphpass.passes.fold_constants import FoldConstants
from graphpass.passes.spell_clip import SpellClip

WEIGHTS = (
    "float zero = {0.0}, float six = {6.0}, float one = {1.0}, float[1] zero1 = {0.0},"
    " float[1] six1 = {6.0}, float[1,1] six2 = {6.0}, float[1,1,1] six3 = {6.0},"
    " float neg = {-1.0}, float[3] many = {1.0, 2.0, 3.0}, float big = {3.4028234663852886e38},"
    " float low = {-3.4028234663852886e38}"
)


def net(body, extra=""):
    return f"agraph (float[N,3] x{extra}) => (float[N,3] y) <{WEIGHTS}> {{ {body} }}"


def clipped(bench, body, opset=17, high=6.0):
    """The body becomes one Clip(x, 0, high) with scalar constants."""
    model = bench.changed(SpellClip, net(body), opset)
    assert bench.ops(model) == ["Clip"]
    (node,) = model.graph.nodes
    assert node.inputs[0].name == "x"
    assert bounds(node) == (0.0, high)
    if opset >= 11:
        assert [t.values.shape for t in node.inputs[1:]] == [(), ()]
    else:
        assert node.attrs == {"min": 0.0, "max": high}
    return model


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 26])
@pytest.mark.parametrize(
    "body",
    [
        "y = Clip (x, zero1, six1)",
        "y = Clip (x, zero, six1)",
        "a = Relu (x) y = Min (a, six)",
        "a = Max (x, zero) y = Min (six, a)",
        "a = Min (x, six) y = Max (zero1, a)",
        'a = Clip (x, "", six) y = Relu (a)',
        'a = Clip (x, zero) y = Clip (a, "", six)',
        "a = Relu (x) y = Clip (a, neg, six)",
        "a = Clip (x, neg, six) y = Clip (a, zero, big)",
    ],
)
def test_spellings_of_relu6(bench, body, opset):
    clipped(bench, body, opset)


@pytest.mark.parametrize("opset", [8, 9, 10])
@pytest.mark.parametrize(
    "body",
    [
        "a = Relu (x) y = Clip <max = 6.0> (a)",
        "a = Clip <min = 0.0> (x) y = Clip <min = -1.0, max = 6.0> (a)",
        "a = Max (x, zero) y = Min (a, six)",
        "a = Max (x, zero1) y = Min (six1, a)",
    ],
)
def test_spellings_of_relu6_with_bounds_as_attributes(bench, body, opset):
    clipped(bench, body, opset)


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (8, "y = Clip <min = 0.0> (x)"),
        (8, "y = Max (x, zero)"),
        (9, "y = Clip <min = 0.0, max = 3.4028234663852886e38> (x)"),
        (11, "y = Clip (x, zero)"),
        (12, "y = Clip (x, zero, big)"),
        (17, 'y = Clip (x, zero, "")'),
        (17, "y = Max (zero1, x)"),
        (26, "a = Clip (x, low, big) y = Relu (a)"),
        (26, "a = Relu (x) y = Relu (a)"),
    ],
)
def test_without_an_upper_bound_it_is_relu(bench, opset, body):
    model = bench.changed(SpellClip, net(body), opset)
    assert bench.ops(model) == ["Relu"]
    (node,) = model.graph.nodes
    assert not node.attrs
    assert [t.name for t in node.inputs] == ["x"]


@pytest.mark.parametrize("high", ["six", "one"])
def test_narrowest_interval_wins(bench, high):
    body = f"a = Clip (x, zero, {high}) b = Clip (a, neg, six) y = Min (b, six)"
    clipped(bench, body, high={"six": 6.0, "one": 1.0}[high])


def test_integer_bounds_through_a_cast(bench):
    proto = bench.proto(
        "agraph (float[N,3] x) => (float[N,3] y) {"
        " lo = Constant <value = int64 {0}> () hi = Constant <value = int64 {6}> ()"
        " a = Cast <to = 1> (lo) b = Cast <to = 1> (hi) y = Clip (x, a, b) }"
    )
    model = bench.changed(FoldConstants, proto)
    SpellClip()(model)
    (node,) = model.graph.nodes
    assert bounds(node) == (0.0, 6.0)
    bench.same_outputs(proto, model)


def test_bounds_that_others_read_are_left_alone(bench):
    model = bench.changed(
        SpellClip, net("a = Clip (x, zero1, six1) b = Sub (a, six1) y = Add (b, zero1)")
    )
    assert bench.ops(model) == ["Clip", "Sub", "Add"]
    assert {"zero1", "six1"} <= {w.name for w in to_proto(model).graph.initializer}


def test_inner_value_that_others_read_stays(bench):
    model = bench.changed(SpellClip, net("a = Max (x, zero) b = Min (a, six) y = Add (a, b)"))
    assert bench.ops(model) == ["Relu", "Min", "Add"]


def test_inner_value_that_is_an_output_stays(bench):
    text = net("a = Relu (x) y = Min (a, six)").replace("y) <", "y, float[N,3] a) <")
    bench.unchanged(SpellClip, text)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (x)",
        "y = Clip (x, zero, six)",
        "y = Clip (x, neg, six)",
        'y = Clip (x, "", six)',
        "y = Clip (x, one, six)",
        "y = Min (x, six)",
        "y = Max (x, one)",
        "y = Max (x, many)",
        "y = Max (x, zero, one)",
        "a = Neg (x) y = Max (x, a)",
        "y = Clip (x, zero, zero)",
        "y = Sigmoid (x)",
    ],
)
def test_near_misses(bench, body):
    bench.unchanged(SpellClip, net(body))


@pytest.mark.parametrize("opset", [8, 9, 10])
def test_relu6_of_old_opsets_is_normal(bench, opset):
    bench.unchanged(SpellClip, net("y = Clip <min = 0.0, max = 6.0> (x)"), opset)


def test_bound_that_is_an_input_stays(bench):
    bench.unchanged(SpellClip, net("y = Clip (x, zero, top)", ", float top"))


def test_shape_arithmetic_is_no_activation(bench):
    # ONNX Runtime has no Relu for int64.
    bench.unchanged(
        SpellClip,
        "agraph (int64[N,3] x) => (int64[N,3] y) <int64 zero = {0}> { y = Max (x, zero) }",
    )


def test_number_that_adds_axes_stays(bench):
    # [N, 3] and [1, 1, 1] give [1, N, 3], which Clip and Relu would not.
    bench.unchanged(
        SpellClip,
        "agraph (float[N,3] x) => (float[1,N,3] y) <float[1,1,1] zero = {0.0}>"
        " { y = Max (x, zero) }",
    )


def test_half_precision_bounds_stay_half(bench):
    model = bench.changed(
        SpellClip,
        bench.half(
            "agraph (float[N,3] x) => (float[N,3] y) <float six = {6.0}>"
            " { a = Relu (x) y = Min (a, six) }"
        ),
    )
    assert {t.values.dtype for t in model.graph.nodes[0].inputs[1:]} == {np.dtype(np.float16)}
