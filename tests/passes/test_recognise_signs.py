"""Binary activations become neurons of one level."""

import pytest

from graphpass.passes.recognise_signs import RecogniseSigns

CONSTANTS = (
    "float[2,2,1,1] k = {1.0, 0.5, -0.5, 1.0}, float far = {-1e9},"
    " float zero = {0.0}, float bound = {0.3}, float low = {-0.5}, float high = {0.5},"
    " float[2,1,1] lows = {-0.5, -1.0}, float[2,1,1] highs = {0.5, 1.0},"
    " float[2,1,1] bounds = {0.1, -0.2}, float[1,2,2,1] many = {1.0, 2.0, 3.0, 4.0}"
)
COMPARE = "c = Less (v, bound)"


def net(body):
    return f"g (float[N,2,4,4] x) => (float[N,2,4,4] y) <{CONSTANTS}> {{ v = Conv (x, k) {body} }}"


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    "body",
    [
        "c = Less (v, zero) y = Where (c, low, high)",
        f"{COMPARE} y = Where (c, low, high)",
        f"{COMPARE} y = Where (c, zero, high)",
        "c = Less (v, bounds) y = Where (c, lows, highs)",
    ],
)
def test_becomes_a_neuron_of_one_level(bench, body, opset):
    model = bench.changed(RecogniseSigns, net(body), opset)
    assert bench.ops(model) == ["Conv", "Add", "QCFS", "Add"]
    assert model.graph.nodes[2].inputs[2].values == 1


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("downwards", f"{COMPARE} y = Where (c, high, low)"),
        ("a constant", f"{COMPARE} y = Where (c, low, low)"),
        ("not a constant", f"{COMPARE} y = Where (c, low, v)"),
        ("a bound that varies", "b = Abs (v) c = Less (v, b) y = Where (c, low, high)"),
        (
            "another reader of the comparison",
            f"{COMPARE} w = Where (c, low, high) f = Cast <to = 1> (c) y = Add (w, f)",
        ),
        ("along two axes", "c = Less (v, zero) s = Where (c, zero, many) y = Tile (s, r)"),
        ("no layer before it", "c = Less (x, bound) w = Where (c, low, high) y = Add (w, v)"),
        ("a mask", f"{COMPARE} y = Where (c, far, high)"),
        ("another comparison", "c = Greater (v, bound) y = Where (c, low, high)"),
    ],
)
def test_near_misses(bench, name, body):
    text = net(body)
    if "Tile" in body:
        text = text.replace("4,4] x", "2,4] x").replace("> {", ", int64[4] r = {1, 1, 2, 1}> {")
    bench.unchanged(RecogniseSigns, text)
