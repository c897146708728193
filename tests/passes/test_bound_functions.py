"""Stage 1 of scalar functions: the same network on currents within the recorded range."""

import numpy as np
import onnx
import pytest

from graphpass import dialect, editing
from graphpass.model import from_proto, infer_shapes, to_bytes, to_proto
from graphpass.passes.bound_functions import (
    BoundFunctions,
    bound_for,
    bounds_between,
    neuron_names,
)
from graphpass.regions import find_regions
from graphpass_runtime.errors import ModelError
from graphpass_runtime.neuron import Neuron

K = (
    "float three = {3.0}, float zero = {0.0}, float six = {6.0}, float half = {0.5},"
    " float[2,1,1] slope = {0.25, -0.5}, float[2,2,1,1] k = {1,2,3,4}"
)
LOW, HIGH = np.array([-3.0, -2.0], np.float32), np.array([2.0, 4.0], np.float32)


def net(body):
    return f"agraph (float[N,2,3,3] x) => (float[N,2,3,3] y) <{K}> {{ {body} }}"


def bounded(bench, body, low=LOW, high=HIGH):
    """The model before and after, and its time flow's neurons."""
    proto = bench.with_functions(net(body))
    model = bench.model(proto)
    bounds = {}
    for region in find_regions(model).values():
        bounds |= bounds_between(model, region, low, high, 1)
    result = BoundFunctions(bounds)(model)
    assert result.modified
    assert not BoundFunctions(bounds)(model).modified
    bench.check(to_proto(model))
    return proto, model


def inside(samples=3):
    """Currents within the range."""
    share = np.random.default_rng(0).uniform(0, 1, (samples, 2, 3, 3))
    low, high = LOW[:, None, None], HIGH[:, None, None]
    return {"x": (low + (high - low) * share).astype(np.float32)}


def calls(model):
    return [n for n in model.graph.nodes if editing.is_dialect(n, dialect.CLIP_ABOVE)]


@pytest.mark.parametrize(
    ("body", "signs"),
    [
        ("a = LeakyRelu (x) y = Conv (a, k)", [1]),
        ("a = Tanh (x) y = Conv (a, k)", [1]),
        ("a = PRelu (x, slope) y = Conv (a, k)", [1, -1]),
        ("s = Sigmoid (x) a = Mul (x, s) y = Conv (a, k)", [1, -1]),
        ("c = Exp (x) d = Add (c, three) a = Div (six, d) y = Conv (a, k)", [-1]),
        ("b = Abs (x) c = Neg (b) a = Exp (c) y = Conv (a, k)", [1, -1]),
    ],
)
def test_the_same_within_the_range(bench, body, signs):
    proto, model = bounded(bench, body)
    found = {node.outputs[0].name: float(node.inputs[1].values) for node in calls(model)}
    assert sorted(found.values()) == sorted(signs)
    assert set(found) == {"a"} if len(signs) == 1 else {"a", "a/inhibitory"}
    for samples in (1, 3):
        (before,) = bench.run_feeds(proto, inside(samples))
        (after,) = bench.run_feeds(to_proto(model), inside(samples))
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-5)


def test_values_outside_the_range_are_cut(bench):
    _, model = bounded(bench, "a = LeakyRelu <alpha = 0.5> (x) y = Conv (a, k)")
    (node,) = calls(model)
    np.testing.assert_array_equal(node.inputs[2].values.ravel(), [-1.5, -1.0])
    np.testing.assert_array_equal(node.inputs[3].values.ravel(), [3.5, 5.0])


def test_an_output_keeps_its_name(bench):
    proto, model = bounded(bench, "y = Tanh (x)")
    assert [node.outputs[0].name for node in calls(model)] == ["y/excitatory"]
    (before,) = bench.run_feeds(proto, inside())
    (after,) = bench.run_feeds(to_proto(model), inside())
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_a_function_within_another_still_reads_the_analog_value(bench):
    body = "s = Sigmoid (x) a = Mul (x, s) b = Conv (s, k) y = Add (a, b)"
    proto, model = bounded(bench, body)
    assert {node.outputs[0].name for node in calls(model)} == {"s", "a", "a/inhibitory"}
    (before,) = bench.run_feeds(proto, inside())
    (after,) = bench.run_feeds(to_proto(model), inside())
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_only_what_has_bounds_is_changed(bench):
    model = bench.model(bench.with_functions(net("a = Tanh (x) y = Conv (a, k)")))
    content = to_bytes(model)
    assert not BoundFunctions({})(model).modified
    assert to_bytes(model) == content


def test_a_channel_that_was_constant_stays_silent(bench):
    low, high = np.array([1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32)
    _, model = bounded(bench, "a = LeakyRelu (x) y = Conv (a, k)", low, high)
    (node,) = calls(model)
    assert (node.inputs[3].values > 0).all()


def test_a_channel_that_hardly_varied_stays_silent(bench):
    low, high = np.array([0.0, -2.0], np.float32), np.array([1e-40, 2.0], np.float32)
    _, model = bounded(bench, "a = Elu (x) y = Conv (a, k)", low, high)
    (node,) = calls(model)
    thresholds = node.inputs[3].values.ravel()
    assert thresholds[0] == thresholds[1] > 1


def test_a_range_is_never_much_narrower_than_its_values():
    model = from_proto(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {net("y = Tanh (x)")}')
    )
    infer_shapes(model)
    (region,) = find_regions(model).values()
    assert list(neuron_names(model, region)) == ["y/excitatory"]
    low, high = np.array([2.0, -1.0], np.float32), np.array([2.0001, 1.0], np.float32)
    (bounds,) = bounds_between(model, region, low, high, 1).values()
    assert bounds.threshold[0] == np.float32(2 * 2.0**-6)  # tanh spans 2
    np.testing.assert_allclose(bounds.threshold[1], 2 * np.tanh(1), rtol=1e-6)


def neuron(name, size, **changes):
    ones = np.ones(size, np.float32)
    values = {"levels": 4, "channel_axis": 1, "baseline": ones, **changes}
    return Neuron(name, ones, ones, ones, **values)


@pytest.mark.parametrize(
    "neurons",
    [
        [neuron("a", 2)],  # and none for where the function falls
        [neuron("a", 2), neuron("a/inhibitory", 3)],
        [neuron("a", 2), neuron("a/inhibitory", 2, channel_axis=4)],
    ],
)
def test_neurons_of_another_network_are_refused(bench, neurons):
    body = "f = HardSigmoid (x) a = Mul (f, x) y = Conv (a, k)"
    model = bench.model(bench.with_functions(net(body)))
    with pytest.raises(ModelError, match="other neurons behind 'a'"):
        bound_for(model, neurons)
