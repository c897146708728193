"""The quantisation-clip-floor-shift activation, however an exporter spelt it."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphpass_models
from graphpass.editing import describe
from graphpass.model import from_proto, infer_shapes, to_proto
from graphpass.passes.fold_constants import FoldConstants
from graphpass.passes.recognise_qcfs import RecogniseQCFS

MODELS = Path(graphpass_models.__file__).parent

# theta = 2, T = 4 unless a name says otherwise
WEIGHTS = (
    "float theta = {2.0}, float T = {4.0}, float half = {0.5}, float zero = {0.0},"
    " float one = {1.0}, float gain = {2.0}, float step = {0.5}, float[1] theta1 = {2.0},"
    " float[2,1,1] thetas = {2.0, 3.0}, float[1,2,1,1] thetas4 = {2.0, 3.0},"
    " float[4] along = {1.0, 2.0, 3.0, 4.0}, float third = {0.3333333}, float neg = {-2.0},"
    " float three = {3.0}, float almost = {0.499}, float fractional = {4.5},"
    " float[2,1,1] s = {1.0, 0.5}, float six = {6.0}, float four_thirds = {1.3333333},"
    " float eighth = {0.125}"
)


def net(body, more=""):
    return (
        f"agraph (float[N,2,3,4] x{more}) => (float[N,2,3,4] y) <{WEIGHTS}>"
        f" {{ z = Identity (x) {body} y = Identity (q) }}"
    )


def recognised(bench, body, opset=17, theta=2.0, levels=4):
    model = bench.changed(RecogniseQCFS, net(body), opset)
    (node,) = [n for n in model.graph.nodes if n.op == "QCFS"]
    np.testing.assert_allclose(node.inputs[1].values, theta, rtol=1e-6)
    assert node.inputs[2].values == levels
    assert node.inputs[0].name == "z"
    assert node.outputs[0].name == "q"
    return model


LEGACY = (
    "a = Div (z, theta) b = Mul (a, T) c = Add (b, half) d = Floor (c) e = {clip}"
    " f = Div (e, T) q = Mul (f, theta)"
)
DYNAMO = (
    "a = Div (z, theta) b = Mul (a, T) c = Add (b, half) d = Floor (c) e = Clip (d, zero, T)"
    " f = Div (e, T) q = Mul (f, theta)"
)
PUTSHUA = (
    "a = Div (z, theta) b = Clip (a, zero, one) c = Mul (b, T) d = Add (c, half) e = Floor (d)"
    " f = Div (e, T) q = Mul (f, theta)"
)


@pytest.mark.parametrize(
    ("opset", "clip"),
    [
        (8, "Clip <min = 0.0, max = 4.0> (d)"),
        (9, "Clip <min = 0.0, max = 4.0> (d)"),
        (11, "Clip (d, zero, T)"),
        (13, "Clip (d, zero, T)"),
        (18, "Clip (d, zero, T)"),
        (26, "Clip (d, zero, T)"),
    ],
)
def test_opsets(bench, opset, clip):
    model = recognised(bench, LEGACY.format(clip=clip), opset)
    assert bench.ops(model) == ["Identity", "QCFS", "Identity"]


@pytest.mark.parametrize(
    "body",
    [
        PUTSHUA,
        DYNAMO,
        # commuted operands
        "a = Div (z, theta) b = Mul (T, a) c = Add (half, b) d = Floor (c) e = Clip (d, zero, T)"
        " f = Div (e, T) q = Mul (theta, f)",
        # commuted Mul and Div
        "a = Mul (z, T) b = Div (a, theta) c = Add (b, half) d = Floor (c) e = Clip (d, zero, T)"
        " f = Mul (e, theta) q = Div (f, T)",
        # Clip after the division by T
        "a = Div (z, theta) b = Mul (a, T) c = Add (b, half) d = Floor (c) f = Div (d, T)"
        " e = Clip (f, zero, one) q = Mul (e, theta)",
        # Clip at the very end
        "a = Div (z, theta) b = Mul (a, T) c = Add (b, half) d = Floor (c) f = Div (d, T)"
        " e = Mul (f, theta) q = Clip (e, zero, theta)",
        # factors folded
        "b = Mul (z, gain) c = Add (b, half) d = Floor (c) e = Clip (d, zero, T) q = Mul (e, step)",
        # Max and Min for Clip
        "b = Mul (z, gain) c = Add (b, half) d = Floor (c) e = Max (zero, d) f = Min (e, T)"
        " q = Mul (f, step)",
        "b = Mul (z, gain) c = Add (b, half) d = Floor (c) e = Relu (d) f = Min (T, e)"
        " q = Mul (f, step)",
        # half of it before the Floor, half of it behind
        "b = Mul (z, gain) r = Relu (b) c = Add (r, half) d = Floor (c) e = Min (d, T)"
        " q = Mul (e, step)",
        # the shift before the scale: 2 (z + 1/4)
        "h = Mul (z, half) i = Add (h, eighth) b = Mul (i, T) d = Floor (b)"
        " e = Clip (d, zero, T) q = Mul (e, step)",
    ],
)
def test_spellings(bench, body):
    model = recognised(bench, body)
    assert bench.ops(model) == ["Identity", "QCFS", "Identity"]


@pytest.mark.parametrize("name", ["thetas", "thetas4"])
@pytest.mark.parametrize("body", [DYNAMO, PUTSHUA])
def test_threshold_for_each_channel(bench, body, name):
    theta = np.array([2.0, 3.0]).reshape((2, 1, 1) if name == "thetas" else (1, 2, 1, 1))
    model = recognised(bench, body.replace("theta)", f"{name})"), theta=theta)
    (node,) = [n for n in model.graph.nodes if n.op == "QCFS"]
    assert node.inputs[1].values.shape == theta.shape


def test_threshold_of_shape_one(bench):
    recognised(bench, DYNAMO.replace("theta)", "theta1)"))


def test_values_on_the_thresholds_go_up(bench):
    model = recognised(bench, DYNAMO)
    ties = (np.arange(-4, 20, dtype=np.float32).reshape(1, 2, 3, 4) - 0.5) / 2
    (found,) = bench.run_feeds(to_proto(model), {"x": ties})
    np.testing.assert_array_equal(found, np.clip(np.floor(ties * 2 + 0.5), 0, 4) / 2)


def test_integer_bounds_through_a_cast(bench):
    text = net(
        "lo = Constant <value = int64 {0}> () hi = Constant <value = int64 {4}> ()"
        " lof = Cast <to = 1> (lo) hif = Cast <to = 1> (hi) "
        + DYNAMO.replace("(d, zero, T)", "(d, lof, hif)")
    )
    proto = bench.proto(text)
    model = bench.changed(FoldConstants, proto)
    assert RecogniseQCFS()(model).modified
    assert "QCFS" in bench.ops(model)
    assert "Floor" not in bench.ops(model)
    bench.same_outputs(proto, model)


def test_shared_parameters_are_left_alone(bench):
    # The dynamo exporter merges equal constants of all layers.
    body = (
        DYNAMO.replace("q =", "g =")
        + " h = Sub (g, half) "
        + (
            "i = Div (h, theta) j = Mul (i, T) k = Add (j, half) l = Floor (k)"
            " m = Clip (l, zero, T) o = Div (m, T) q = Mul (o, theta)"
        )
    )
    model = bench.changed(RecogniseQCFS, net(body))
    assert bench.ops(model) == ["Identity", "QCFS", "Sub", "QCFS", "Identity"]


def test_parameter_that_something_else_reads_is_left_alone(bench):
    body = DYNAMO.replace("q =", "g =") + " h = Add (g, theta) q = Div (h, T)"
    model = bench.changed(RecogniseQCFS, net(body))
    assert bench.ops(model) == ["Identity", "QCFS", "Add", "Div", "Identity"]
    assert {"theta", "T"} <= {w.name for w in to_proto(model).graph.initializer}


def test_factors_around_it_stay(bench):
    body = DYNAMO.replace("(z, theta)", "(g, theta)").replace("q =", "h =")
    model = bench.changed(RecogniseQCFS, net(f"g = Mul (z, three) {body} q = Mul (h, three)"))
    assert bench.ops(model) == ["Identity", "Mul", "QCFS", "Mul", "Identity"]
    np.testing.assert_allclose(model.graph.nodes[2].inputs[1].values, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "theta", "ops"),
    [
        (DYNAMO.replace("Mul (f, theta)", "Mul (f, three)"), 1.0, ["Div", "QCFS", "Mul"]),
        (DYNAMO.replace("Div (e, T)", "Div (e, three)"), 4.0, ["Div", "Mul", "QCFS", "Div", "Mul"]),
        (DYNAMO.replace("(z, theta)", "(theta, z)"), 1.0, ["Div", "QCFS", "Mul"]),
        (DYNAMO.replace("theta", "neg"), 1.0, ["Div", "QCFS", "Mul"]),
        (DYNAMO.replace("q =", "g =") + " q = Add (g, f)", 1.0, ["Div", "QCFS", "Mul", "Add"]),
    ],
    ids=["scale", "levels", "constant over x", "negative", "reader in the tail"],
)
def test_what_does_not_fit_stays_around_a_smaller_one(bench, body, theta, ops):
    model = bench.changed(RecogniseQCFS, net(body))
    assert bench.ops(model) == ["Identity", *ops, "Identity"]
    (node,) = [n for n in model.graph.nodes if n.op == "QCFS"]
    np.testing.assert_allclose(node.inputs[1].values, theta, rtol=1e-6)


def test_factors_that_cancel_belong_to_it(bench):
    body = DYNAMO.replace("(z, theta)", "(g, theta)").replace("q =", "h =")
    recognised(bench, f"g = Mul (z, three) {body} q = Mul (h, third)", theta=2 / 3)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("offset 0", "b = Mul (z, gain) d = Floor (b) e = Clip (d, zero, T) q = Mul (e, step)"),
        ("offset 0.499", DYNAMO.replace("(b, half)", "(b, almost)")),
        ("offset 0, added", DYNAMO.replace("(b, half)", "(b, zero)")),
        ("subtracted", DYNAMO.replace("Add (b, half)", "Sub (b, half)")),
        (
            "wrong scale before the Clip",
            "b = Mul (z, gain) c = Add (b, half) d = Floor (c) e = Mul (d, third)"
            " q = Clip (e, zero, four_thirds)",
        ),
        ("fractional levels", DYNAMO.replace("zero, T)", "zero, fractional)")),
        ("no upper bound", DYNAMO.replace("(d, zero, T)", "(d, zero)")),
        ("no lower bound", DYNAMO.replace("Clip (d, zero, T)", "Min (d, T)")),
        ("lower bound 1", DYNAMO.replace("(d, zero, T)", "(d, one, T)")),
        ("Round", DYNAMO.replace("Floor", "Round")),
        ("Ceil", DYNAMO.replace("Floor", "Ceil")),
        ("constant minus x", DYNAMO.replace("Add (b, half)", "Sub (half, b)")),
        (
            "levels differ by channel",
            "a = Clip (z, zero, one) b = Mul (a, thetas) c = Add (b, half) d = Floor (c)"
            " q = Div (d, thetas)",
        ),
        ("two readers of the charge", DYNAMO.replace("q =", "g =") + " q = Add (g, c)"),
        ("two readers of the count", DYNAMO.replace("q =", "g =") + " q = Add (g, d)"),
        (
            "theta computed",
            "v = Exp (z) a = Div (z, v) b = Clip (a, zero, T) c = Add (b, v) d = Floor (c)"
            " q = Mul (d, theta)",
        ),
        ("Floor alone", "q = Floor (z)"),
    ],
)
def test_near_misses(bench, name, body):
    bench.unchanged(RecogniseQCFS, net(body))


@pytest.mark.parametrize("inner", ["c", "d"])
def test_inner_value_that_is_an_output_stays(bench, inner):
    text = net(DYNAMO).replace(" y) <", f" y, float[N,2,3,4] {inner}) <")
    bench.unchanged(RecogniseQCFS, text)


def test_theta_that_is_an_input_stays_around_it(bench):
    body = DYNAMO.replace("theta)", "k)")
    model = bench.changed(RecogniseQCFS, net(body, ", float k"))
    assert bench.ops(model) == ["Identity", "Div", "QCFS", "Mul", "Identity"]


def test_clip_of_values_scaled_by_channel_is_not_mistaken(bench):
    # Clip(., 0, 6) times (1, 1/2) reaches 6 and 3; clipped at 4 that is 4 and 3 levels, so
    # that the first Clip is no part of it.
    proto = bench.proto(
        net(
            "a = Clip (z, zero, six) b = Mul (a, s) e = Clip (b, zero, T) c = Add (e, half)"
            " d = Floor (c) q = Div (d, s)"
        )
    )
    model = bench.changed(RecogniseQCFS, proto)
    assert bench.ops(model) == ["Identity", "Clip", "QCFS", "Identity"]
    feeds = {"x": np.linspace(-3, 12, 24, dtype=np.float32).reshape(1, 2, 3, 4)}
    (before,), (after,) = (bench.run_feeds(p, feeds) for p in (proto, to_proto(model)))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", ["digits_qcfs_l8.onnx", "digits_qcfs_l8_dynamo.onnx"])
def test_both_exporters_of_torch(bench, name):
    before = onnx.load(MODELS / name)
    model = bench.model(before)
    FoldConstants()(model)
    assert RecogniseQCFS()(model).modified
    qcfs = [node for node in model.graph.nodes if node.op == "QCFS"]
    assert len(qcfs) == 4, [describe(node) for node in model.graph.nodes]
    assert not {"Floor", "Div", "Mul"} & set(bench.ops(model))
    assert all(node.inputs[2].values == 8 for node in qcfs)
    bench.same_outputs(before, model, atol=1e-4)
    assert not RecogniseQCFS()(model).modified


def test_both_exporters_give_the_same_thresholds():
    found = []
    for name in ("digits_qcfs_l8.onnx", "digits_qcfs_l8_dynamo.onnx"):
        model = from_proto(onnx.load(MODELS / name))
        infer_shapes(model)
        FoldConstants()(model)
        RecogniseQCFS()(model)
        found.append([n.inputs[1].values.ravel() for n in model.graph.nodes if n.op == "QCFS"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize("value", ["0.0", "1e-45", "3e38"])
@pytest.mark.parametrize("name", ["T", "theta", "half"])
def test_numbers_that_do_not_stay_finite(bench, name, value):
    text = net(LEGACY.replace("{clip}", "Clip (d, zero, T)"))
    old = next(part for part in WEIGHTS.split(", ") if part.strip().startswith(f"float {name} ="))
    model = bench.model(text.replace(old, f" float {name} = {{{value}}}"))
    RecogniseQCFS()(model)
    assert all(
        np.isfinite(tensor.values).all()
        for node in model.graph.nodes
        if node.op == "QCFS"
        for tensor in node.inputs[1:]
    )
