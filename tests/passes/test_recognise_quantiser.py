"""QuantizeLinear and DequantizeLinear as already quantised networks have them."""

import numpy as np
import onnx
import pytest

from graphpass.model import to_proto
from graphpass.passes.recognise_quantiser import RecogniseQuantiser

SIGNED = {"int8": "-128", "int4": "-8"}
CONSTANTS = (
    "float s = {0.5}, float[1] s1 = {0.5}, float s2 = {0.25}, float neg = {-0.5},"
    " float[2] along = {0.5, 0.25}, uint8 z = {0}, int8 low = {-128}, int8 zero8 = {0},"
    " uint8[1] z1 = {0}, uint8[2] differ = {0, 3}, uint8[2] middles = {128, 128},"
    " uint8 middle = {128}, uint8 odd = {101}, uint8 five = {5},"
    " uint8 seven = {7}, int8 most = {127}, int8 least = {-127}, int8 fifteen = {15},"
    " float zero = {0.0}, float three = {3.0}, float one = {1.0},"
    " float[2,2,1,1] w = {1.0, 0.5, -0.5, 1.0}"
)


def net(body, more=""):
    return (
        f"g (float[N,2,4,4] x{more}) => (float[N,2,4,4] y) <{CONSTANTS}>"
        f" {{ a = Conv (x, w) {body} y = Conv (b, w) }}"
    )


PAIR = "q = QuantizeLinear (a, s, z) b = DequantizeLinear (q, s, z)"
ALONG = "q = QuantizeLinear <axis = 1> (a, along) b = DequantizeLinear <axis = 1> (q, along)"
SIGNED_PAIR = PAIR.replace("z)", "middle)")


def quantiser(model):
    (node,) = [n for n in model.graph.nodes if n.op == "QCFSHalfEven"]
    return float(node.inputs[1].values), int(node.inputs[2].values), node


@pytest.mark.parametrize(
    ("body", "theta", "levels"),
    [
        (PAIR, 127.5, 255),
        (PAIR.replace(", z)", ")"), 127.5, 255),
        (PAIR.replace("s,", "s1,").replace("z)", "z1)"), 127.5, 255),
        (PAIR.replace("z)", "low)"), 127.5, 255),
        # Relu in front: a grid that reaches below 0 is cut there
        ("r = Relu (a) " + PAIR.replace("(a", "(r").replace("z)", "zero8)"), 63.5, 127),
        ("r = Relu (a) " + PAIR.replace("(a", "(r").replace("z)", "middle)"), 63.5, 127),
        ("r = Relu (a) " + PAIR.replace("(a", "(r"), 127.5, 255),
        ("r = Clip (a, zero, three) " + PAIR.replace("(a", "(r"), 3.0, 6),
        ("r = Max (a, zero) t = Min (three, r) " + PAIR.replace("(a", "(t"), 3.0, 6),
        # Relu behind, where the current was rounded first
        (PAIR.replace("z)", "zero8)").replace("b =", "d =") + " b = Relu (d)", 63.5, 127),
        # Clip between, as torch writes grids with fewer levels than the type has
        (
            "q = QuantizeLinear (a, s, z) c = Clip (q, z, seven) b = DequantizeLinear (c, s, z)",
            3.5,
            7,
        ),
        (
            "q = QuantizeLinear (a, s, z) c = Clip (q, , seven) b = DequantizeLinear (c, s, z)",
            3.5,
            7,
        ),
        (
            "r = Relu (a) q = QuantizeLinear (r, s, zero8) c = Clip (q, least, fifteen)"
            " b = DequantizeLinear (c, s, zero8)",
            7.5,
            15,
        ),
    ],
)
def test_a_grid_that_starts_at_zero_is_a_qcfs(bench, body, theta, levels):
    model = bench.changed(RecogniseQuantiser, net(body), opset=13)
    assert bench.ops(model) == ["Conv", "QCFSHalfEven", "Conv"]
    assert quantiser(model)[:2] == (theta, levels)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 19, 21, 23])
def test_opsets(bench, opset):
    assert quantiser(bench.changed(RecogniseQuantiser, net(PAIR), opset))[:2] == (127.5, 255)


@pytest.mark.parametrize(("kind", "levels"), [("uint4", 15), ("int4", 15), ("uint16", 65535)])
def test_integer_types_of_opset_21(bench, kind, levels):
    proto = bench.proto(net(PAIR), opset=21)
    zero = SIGNED.get(kind, "0")
    typed = onnx.helper.make_tensor(
        "typed", getattr(onnx.TensorProto, kind.upper()), [], [int(zero)]
    )
    proto.graph.initializer.append(typed)
    for node in proto.graph.node[1:3]:
        node.input[2] = "typed"
    model = bench.changed(RecogniseQuantiser, proto)
    assert quantiser(model)[:2] == (levels / 2, levels)


def on_ties(levels, step=0.5):
    """Currents half way between counts, beyond both ends too; a Conv by w leaves them so."""
    return (np.arange(-8, 2 * levels + 24, dtype=np.float32) / 2 * step)[None, None, :, None]


@pytest.mark.parametrize(
    "body",
    [
        PAIR,
        PAIR.replace("z)", "low)"),
        "q = QuantizeLinear (a, s, z) c = Clip (q, z, seven) b = DequantizeLinear (c, s, z)",
        SIGNED_PAIR,
        PAIR.replace("z)", "odd)"),
        PAIR.replace("z)", "five)"),
    ],
)
def test_ties_go_where_the_file_says(bench, body):
    between = f"h = Relu (x) a = Sub (h, three) {body} y = Relu (b)"
    text = f"g (float[N,1,L,1] x) => (float[N,1,L,1] y) <{CONSTANTS}, float[1,1,1,1] u = {{1.0}}>"
    proto = bench.proto(text + f" {{ i = Conv (x, u) {between.replace('(x)', '(i)')} }}")
    model = bench.model(proto)
    assert RecogniseQuantiser()(model).modified
    assert "QuantizeLinear" not in bench.ops(model)
    x = np.abs(on_ties(255)) + np.float32(0)
    x = np.concatenate([x, x + np.float32(1e-3)])
    (before,), (after,) = (bench.run_feeds(p, {"x": x}) for p in (proto, to_proto(model)))
    assert len(np.unique(before)) > 5
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(("point", "turned"), [("middle", False), ("odd", True), ("five", True)])
def test_a_current_between_two_activations_is_raised(bench, point, turned):
    body = PAIR.replace("z)", f"{point})").replace("(a,", "(p,")
    text = net(f"r = Relu (a) p = Conv (r, w) {body.replace('b =', 'd =')} b = Relu (d)")
    # Relu behind it would be taken in; a layer between them keeps them apart.
    text = text.replace("b = Relu (d)", "e = Conv (d, w) b = Relu (e)")
    model = bench.changed(RecogniseQuantiser, text)
    around = ["Sub", "QCFSHalfEven", "Sub"] if turned else ["Add", "QCFSHalfEven", "Sub"]
    assert bench.ops(model) == ["Conv", "Relu", "Conv", *around, "Conv", "Relu", "Conv"]
    theta, levels, node = quantiser(model)
    assert (theta, levels) == (127.5, 255)
    assert node.outputs[0].name == "d/raised"


def test_a_rounded_current_is_dropped_on_request(bench):
    body = SIGNED_PAIR.replace("(a,", "(p,").replace("b =", "d =")
    text = net(f"r = Relu (a) p = Conv (r, w) {body} e = Conv (d, w) b = Relu (e)")
    model = bench.model(text)
    assert RecogniseQuantiser("drop")(model).modified
    assert bench.ops(model) == ["Conv", "Relu", "Conv", "Conv", "Relu", "Conv"]
    (verdict,) = model.record.activations
    assert (verdict["name"], verdict["status"]) == ("d", "dropped")
    assert verdict["operator"] == "quantiser (255 levels)"
    assert not RecogniseQuantiser("drop")(model).modified


def test_activations_are_not_dropped(bench):
    model = bench.changed(lambda: RecogniseQuantiser("drop"), net(PAIR))
    assert bench.ops(model) == ["Conv", "QCFSHalfEven", "Conv"]
    assert model.record.activations == ()


@pytest.mark.parametrize(
    "between",
    [
        "m = MaxPool <kernel_shape = [1,1]> (d)",
        "m = Transpose <perm = [0,1,3,2]> (d)",
        "m = Relu (d)",
        "m = Concat <axis = 0> (d, d)",
    ],
)
def test_rounding_to_the_same_grid_twice_goes_away(bench, between):
    again = "p = QuantizeLinear (m, s, z) b = DequantizeLinear (p, s, z)"
    model = bench.changed(
        RecogniseQuantiser, net(f"{PAIR.replace('b =', 'd =')} {between} {again}")
    )
    assert "QuantizeLinear" not in bench.ops(model)
    assert bench.ops(model).count("QCFSHalfEven") == 1


@pytest.mark.parametrize(
    "again",
    [
        "m = AveragePool <kernel_shape = [1,1]> (d) p = QuantizeLinear (m, s, z)"
        " b = DequantizeLinear (p, s, z)",
        "p = QuantizeLinear (d, s, z) c = Clip (p, z, seven) b = DequantizeLinear (c, s, z)",
    ],
    ids=["another operator between", "fewer levels"],
)
def test_rounding_to_another_grid_stays(bench, again):
    model = bench.changed(RecogniseQuantiser, net(f"{PAIR.replace('b =', 'd =')} {again}"))
    assert bench.ops(model).count("QCFSHalfEven") == 2


def test_rounding_to_another_step_stays(bench):
    # ONNX Runtime's optimiser drops the first of two pairs in a row, so outputs do not compare.
    again = "p = QuantizeLinear (d, s2, z) b = DequantizeLinear (p, s2, z)"
    model = bench.model(net(f"{PAIR.replace('b =', 'd =')} {again}"))
    RecogniseQuantiser()(model)
    assert bench.ops(model) == ["Conv", "QCFSHalfEven", "QCFSHalfEven", "Conv"]


def test_one_dequantiser_for_each_reader(bench):
    body = (
        "q = QuantizeLinear (a, s, z) d = DequantizeLinear (q, s, z) e = DequantizeLinear (q, s, z)"
        " f = Conv (d, w) b = Add (f, e)"
    )
    model = bench.changed(RecogniseQuantiser, net(body))
    assert bench.ops(model) == ["Conv", "QCFSHalfEven", "Conv", "Add", "Conv"]


def test_what_is_also_read_before_it_is_rounded(bench):
    body = "r = Relu (a) " + PAIR.replace("(a", "(r").replace("b =", "d =") + " b = Add (d, r)"
    model = bench.changed(RecogniseQuantiser, net(body))
    assert sorted(bench.ops(model)) == ["Add", "Conv", "Conv", "QCFSHalfEven", "Relu"]
    assert quantiser(model)[2].inputs[0].name == "a"


@pytest.mark.parametrize(
    ("body", "levels"),
    [
        (ALONG, 255),
        ("r = Relu (a) " + ALONG.replace("(a", "(r").replace("along)", "along, middles)"), 127),
    ],
)
def test_a_step_for_each_channel(bench, body, levels):
    model = bench.changed(RecogniseQuantiser, net(body))
    (node,) = [n for n in model.graph.nodes if n.op == "QCFSHalfEven"]
    assert node.inputs[1].values.tolist() == [[[0.5 * levels]], [[0.25 * levels]]]
    assert int(node.inputs[2].values) == levels


def test_a_rounded_current_with_a_step_for_each_channel(bench):
    pair = ALONG.replace("(a", "(p").replace("along)", "along, middles)").replace("b =", "d =")
    body = f"r = Relu (a) p = Conv (r, w) {pair} e = Conv (d, w) b = Relu (e)"
    model = bench.changed(RecogniseQuantiser, net(body))
    assert bench.ops(model).count("QCFSHalfEven") == 1


def test_clips_that_leave_channels_different_levels_stay(bench):
    body = "r = Clip (a, zero, three) " + ALONG.replace("(a", "(r")
    model = bench.changed(RecogniseQuantiser, net(body))
    assert bench.ops(model) == ["Conv", "Clip", "QCFSHalfEven", "Conv"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("zero points differ", PAIR.replace("(q, s, z)", "(q, s, five)")),
        (
            "a bound that is computed",
            "q = QuantizeLinear (a, s, z) t = Cast <to = 2> (k) c = Clip (q, z, t)"
            " b = DequantizeLinear (c, s, z)",
        ),
        ("steps differ", PAIR.replace("(q, s,", "(q, s2,")),
        (
            "zero points that differ",
            ALONG.replace("along)", "along, differ)"),
        ),
        ("a negative step", PAIR.replace("s,", "neg,")),
        ("a current behind no activation", SIGNED_PAIR),
        (
            "a current before no activation",
            "r = Relu (a) t = Conv (r, w) " + SIGNED_PAIR.replace("(a", "(t"),
        ),
        (
            "another reader of the integers",
            PAIR.replace("b =", "d =") + " f = Cast <to = 1> (q) b = Add (d, f)",
        ),
        (
            "nothing above zero",
            "r = Relu (a) " + PAIR.replace("z)", "most)").replace("a,", "r,"),
        ),
    ],
)
def test_near_misses(bench, name, body):
    bench.unchanged(RecogniseQuantiser, net(body, ", float k" if "(k)" in body else ""))


def test_opset_without_round(bench):
    bench.unchanged(RecogniseQuantiser, net(PAIR), opset=10)


@pytest.mark.parametrize("input_", ["x", "t"])
def test_the_input_of_the_network_stays_rounded(bench, input_):
    text = net("b = Relu (a)").replace("Conv (x,", "Conv (d,")
    pair = f"t = Transpose (x) q = QuantizeLinear ({input_}, s, z) d = DequantizeLinear (q, s, z)"
    pair = pair.replace("Transpose", "Transpose <perm = [0,1,2,3]>")
    bench.unchanged(RecogniseQuantiser, text.replace("{ a =", f"{{ {pair} a ="))


def test_integers_that_are_an_output_stay(bench):
    text = net(PAIR).replace("(float[N,2,4,4] y)", "(float[N,2,4,4] y, uint8[N,2,4,4] q)")
    bench.unchanged(RecogniseQuantiser, text)


def test_step_that_is_an_input_stays(bench):
    bench.unchanged(RecogniseQuantiser, net(PAIR.replace("s,", "k,"), ", float k"))


def test_output_of_the_network_keeps_its_name(bench):
    text = net(PAIR).replace("y = Conv (b, w)", "").replace("b =", "y =")
    model = bench.changed(RecogniseQuantiser, text)
    assert bench.ops(model) == ["Conv", "QCFSHalfEven"]
