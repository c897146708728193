"""Stage 1: every activation that will spike gets a threshold."""

import numpy as np
import pytest

from graphpass import stages
from graphpass.model import from_proto, to_proto
from graphpass.neurons.parameters import SMALLEST_THRESHOLD
from graphpass.passes.bound_activations import BoundActivations
from graphpass.timeflow import infer

THETA = np.array([0.5, 1.0, 1.5], np.float32)


def bounded(bench, text, names, thresholds, opset=17, **kwargs):
    proto = bench.net(text, kwargs.pop("shapes", {}), opset)
    flow = infer(bench.model(proto), names)
    step = lambda: BoundActivations(names, flow, thresholds)  # noqa: E731
    return proto, step


@pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 17, 18, 26])
def test_relu_is_clipped_at_the_threshold_of_its_channel(bench, opset):
    text = "g (float[N,2,3,4] x) => (float[N,3,3,4] y) { a = Conv (x, w) y = Relu (a) }"
    shapes = {"w": (3, 2, 1, 1)}
    proto, step = bounded(bench, text, ["y"], {"y": THETA}, opset, shapes=shapes)
    model = bench.model(proto)
    assert step()(model).modified
    assert bench.ops(model) == ["Conv", "ClipReLU"]
    pairs = zip(bench.run(proto), bench.run(model), strict=True)
    for (before,), (after,) in pairs:
        np.testing.assert_array_equal(after, np.minimum(before, THETA.reshape(3, 1, 1)))
    assert not step()(model).modified
    assert [o.name for o in to_proto(model).graph.output] == ["y"]


def test_threshold_above_everything_changes_nothing(bench):
    text = "g (float[N,2,3,4] x) => (float[N,3,3,4] y) { a = Conv (x, w) y = Relu (a) }"
    proto, step = bounded(bench, text, ["y"], {"y": THETA * 100}, shapes={"w": (3, 2, 1, 1)})
    assert bench.ops(bench.changed(step, proto)) == ["Conv", "ClipReLU"]


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("(float[N,5] x) => (float[N,3] y) { a = Gemm (x, w) y = Relu (a) }", (5, 3), 1),
        ("(float[N,4,5] x) => (float[N,4,3] y) { a = MatMul (x, w) y = Relu (a) }", (5, 3), 2),
        ("(float[N,5,4] x) => (float[N,3,4] y) { a = MatMul (w, x) y = Relu (a) }", (3, 5), 1),
    ],
)
def test_threshold_stands_along_the_channel_axis(bench, text, shape, axis):
    proto, step = bounded(bench, f"g {text}", ["y"], {"y": THETA}, shapes={"w": shape})
    model = bench.model(proto)
    step()(model)
    for (before,), (after,) in zip(bench.run(proto), bench.run(model), strict=True):
        along = THETA.reshape([3 if a == axis else 1 for a in range(before.ndim)])
        np.testing.assert_array_equal(after, np.minimum(before, along))


def test_one_threshold_where_the_channels_are_lost(bench):
    text = "g (float[N,2,3] x) => (float[N,2,3] y) { y = Relu (x) }"
    proto, step = bounded(bench, text, ["y"], {"y": np.array([0.7], np.float32)})
    model = bench.model(proto)
    step()(model)
    assert model.graph.nodes[0].inputs[1].values.shape == ()
    for (before,), (after,) in zip(bench.run(proto), bench.run(model), strict=True):
        np.testing.assert_array_equal(after, np.minimum(before, np.float32(0.7)))


@pytest.mark.parametrize(
    ("opset", "call"),
    [
        (8, "Clip <min = 0.0, max = 1.5> (x)"),
        (11, "Clip (x, zero, top)"),
        (26, "Clip (x, zero, top)"),
    ],
)
def test_clip_keeps_its_bound(bench, opset, call):
    text = (
        "g (float[N,3] x) => (float[N,3] y) <float zero = {0.0}, float top = {1.5}>"
        f" {{ y = {call} }}"
    )
    proto, step = bounded(bench, text, ["y"], {}, opset)
    model = bench.changed(step, proto)
    (node,) = model.graph.nodes
    assert (node.op, node.attrs) == ("ClipReLU", {})
    assert node.inputs[1].values == np.float32(1.5)


def test_bound_that_another_node_reads_is_left_alone(bench):
    text = (
        "g (float[N,3] x) => (float[N,3] y) <float zero = {0.0}, float top = {1.5}>"
        " { a = Clip (x, zero, top) y = Add (a, top) }"
    )
    proto, step = bounded(bench, text, ["a"], {})
    assert "top" in {w.name for w in to_proto(bench.changed(step, proto)).graph.initializer}


@pytest.mark.parametrize("largest", [2.0, 1e-30, 1e-45, 0.0])
def test_dead_channels_get_a_threshold_above_zero(bench, largest):
    text = "g (float[N,2,3,4] x) => (float[N,3,3,4] y) { a = Conv (x, w) y = Relu (a) }"
    dead = {"y": np.array([0.0, largest / 2, largest], np.float32)}
    proto, step = bounded(bench, text, ["y"], dead, shapes={"w": (3, 2, 1, 1)})
    model = bench.model(proto)
    step()(model)
    thresholds = model.graph.nodes[1].inputs[1].values
    assert (thresholds >= SMALLEST_THRESHOLD).all()


def test_activations_that_were_not_asked_for_stay(bench):
    text = "g (float[N,3] x) => (float[N,3] y) { a = Relu (x) b = Neg (a) y = Relu (b) }"
    proto, step = bounded(bench, text, [], {})
    bench.unchanged(step, proto)


def test_qcfs_stays(bench):
    proto = bench.with_functions(
        "g (float[N,3] x) => (float[N,3] y) <float theta = {1.5}, float T = {4.0}>"
        " { y = graphpass.QCFS (x, theta, T) }"
    )
    flow = infer(bench.model(proto), ["y"])
    bench.unchanged(lambda: BoundActivations(["y"], flow, {}), proto)


def test_normalised_relu6_from_the_start(bench):
    proto = bench.proto(
        "g (float[N,3] x) => (float[N,3] y) <float six = {6.0}> { a = Relu (x) y = Min (a, six) }"
    )
    model = from_proto(proto)
    stages.normalise(model)
    flow = infer(model, ["y"])
    assert BoundActivations(["y"], flow, {})(model).modified
    assert bench.ops(model) == ["ClipReLU"]
