"""A constant that is joined to a tensor becomes padding."""

import pytest

from graphpass.passes.pad_constants import PadConstants

C = (
    "float[1,2,3] none = {0,0,0,0,0,0}, float[1,2,3] some = {1,2,3,4,5,6},"
    " float[1,4,1] column = {1,2,3,4}"
)


def net(body, more=C):
    return f"agraph (float[1,4,3] x, float[1,5,3] z) => (float[1,A,B] y) <{more}> {{ {body} }}"


@pytest.mark.parametrize("opset", [8, 10, 11, 17, 26])
def test_zeros_are_padding(bench, opset):
    model = bench.changed(PadConstants, net("y = Concat <axis = 1> (x, none)"), opset, [1])
    assert bench.ops(model) == ["Pad"]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("y = Concat <axis = 1> (some, x)", ["Pad", "Add"]),
        ("y = Concat <axis = -2> (none, x, some)", ["Pad", "Add"]),
        ("y = Concat <axis = 2> (x, column)", ["Pad", "Add"]),
        ("y = Concat <axis = 1> (x, none, z)", ["Pad", "Concat"]),
        ("y = Concat <axis = 1> (none, x, some, none, z, none)", ["Pad", "Pad", "Add", "Concat"]),
        (
            "a = Neg (x) b = Concat <axis = 1> (a, none) c = Abs (a) y = Concat <axis = 1> (b, c)",
            ["Neg", "Abs", "Pad", "Concat"],
        ),
    ],
)
def test_places_of_constants(bench, body, ops):
    model = bench.changed(PadConstants, net(body), batches=[1])
    assert sorted(bench.ops(model)) == sorted(ops)


@pytest.mark.parametrize(
    "text",
    [
        net("y = Concat <axis = 1> (x, z)"),
        "agraph (float[1,2] x) => (float[2,2] y) <float[1,2] k = {1, 2}>"
        " { y = Concat <axis = 0> (x, k) }",
        "agraph (float[2,2] x) => (float[2,3] y) <float[2,1] k = {1, 2}>"
        " { y = Concat <axis = 1> (x, k) }",
        "agraph (int64[1,2] x) => (int64[1,3] y) <int64[1,1] k = {1}>"
        " { y = Concat <axis = 1> (x, k) }",
        "agraph (float[2] x) => (float[3] y) <float[1] k = {1}> { y = Concat <axis = 0> (x, k) }",
    ],
    ids=["no constant", "batch axis", "two samples", "integers", "vectors"],
)
def test_what_is_left_alone(bench, text):
    bench.unchanged(PadConstants, text)
