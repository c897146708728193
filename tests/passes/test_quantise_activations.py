"""Stage 2: every bounded activation gets T levels."""

import numpy as np
import onnx.numpy_helper
import pytest

from graphpass.model import to_proto
from graphpass.passes.quantise_activations import QuantiseActivations
from graphpass.timeflow import infer
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord

WEIGHTS = (
    "float theta = {1.5}, float[3,1,1] thetas = {0.5, 1.0, 1.5}, float[1,3,1,1] thetas4 ="
    " {0.5, 1.0, 1.5}, float T = {4.0}"
)


def net(call, more=""):
    return (
        f"g (float[N,2,3,4] x) => (float[N,3,3,4] y{more}) <{WEIGHTS}>"
        f" {{ a = Conv (x, w) y = graphpass.{call} }}"
    )


def quantise(bench, text, steps=4, opset=17):
    proto = bench.with_functions(text, opset)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = bench.model(proto)
    flow = infer(model, ["y"])
    return proto, model, lambda: QuantiseActivations(["y"], flow, steps)


@pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 17, 18, 26])
@pytest.mark.parametrize("threshold", ["theta", "thetas", "thetas4"])
def test_qcfs_at_its_own_levels_is_the_same_function(bench, opset, threshold):
    proto, _, make = quantise(bench, net(f"QCFS (a, {threshold}, T)"), opset=opset)
    model = bench.changed(make, proto)
    assert bench.ops(model) == ["Conv", "DAQCFS"]
    (neuron,) = model.record.neurons
    assert (neuron.name, neuron.levels, neuron.trained_levels) == ("y", 4, 4)
    assert (neuron.channel_axis, neuron.batch_axis, neuron.channels) == (1, 0, 3)
    expected = [1.5] * 3 if threshold == "theta" else [0.5, 1.0, 1.5]
    np.testing.assert_array_equal(neuron.threshold, np.float32(expected))
    np.testing.assert_array_equal(neuron.shift, np.zeros(3))
    np.testing.assert_allclose(neuron.amplitude, np.float32(expected) / 4)
    assert model.record.steps == 4


@pytest.mark.parametrize("steps", [1, 3, 16, 256])
def test_clip_relu_is_rounded_to_the_nearest_level(bench, steps):
    proto, model, make = quantise(bench, net("ClipReLU (a, thetas)"), steps)
    make()(model)
    (neuron,) = model.record.neurons
    assert neuron.trained_levels is None
    step = np.array([0.5, 1.0, 1.5]).reshape(3, 1, 1) / steps
    for (before,), (after,) in zip(bench.run(proto), bench.run(model), strict=True):
        assert np.abs(after - before).max() <= step.max() / 2 + 1e-6
        np.testing.assert_allclose(after, np.round(after / step) * step, atol=1e-5)
    assert not make()(model).modified


def test_threshold_that_others_read_is_left_alone(bench):
    text = net("ClipReLU (a, theta)").replace("y =", "b =").replace(" }", " y = Add (b, theta) }")
    _, model, _ = quantise(bench, text)
    flow = infer(model, ["b"])
    QuantiseActivations(["b"], flow, 4)(model)
    assert "theta" in {w.name for w in to_proto(model).graph.initializer}


def test_potential_and_spikes_have_the_names_of_the_record(bench):
    _, model, make = quantise(bench, net("ClipReLU (a, theta)"))
    make()(model)
    (neuron,) = model.record.neurons
    (node,) = [n for n in model.graph.nodes if n.op == "DAQCFS"]
    assert [t.name for t in node.outputs] == [neuron.name, neuron.potential, neuron.spikes]


def test_what_was_not_asked_for_stays(bench):
    proto, model, _ = quantise(bench, net("ClipReLU (a, theta)"))
    flow = infer(model, [])
    bench.unchanged(lambda: QuantiseActivations([], flow, 4), proto)


def test_qcfs_with_thresholds_knows_its_channels_where_they_were_lost(bench):
    # Nothing before it says which axis of an input holds the channels.
    proto = bench.with_functions(
        "g (float[N,3,2,2] x) => (float[N,3,2,2] y) <float[3,1,1] thetas = {0.5, 1.0, 1.5},"
        " float T = {4.0}> { y = graphpass.QCFS (x, thetas, T) }"
    )
    flow = infer(bench.model(proto), ["y"])
    assert not flow.refused
    model = bench.changed(lambda: QuantiseActivations(["y"], flow, 4), proto)
    assert model.record.neurons[0].channel_axis == 1


@pytest.mark.parametrize(
    ("theta", "what"),
    [
        *((theta, r"less than 2\^-100") for theta in ("0.0", "-1.5", "1e-40")),
        ("1e35", r"more than 2\^112"),
    ],
)
def test_threshold_that_nothing_can_be_divided_by_is_refused(bench, theta, what):
    text = net("QCFS (a, theta, T)").replace("theta = {1.5}", f"theta = {{{theta}}}")
    _, model, make = quantise(bench, text)
    with pytest.raises(ModelError, match=f"threshold of {what}"):
        make()(model)


def test_thresholds_of_channels_that_are_not_known_are_refused(bench):
    _, model, make = quantise(bench, net("QCFS (a, theta, T)"))
    (node,) = (n for n in model.graph.nodes if n.op == "QCFS")
    node.inputs[1].values = np.full((5, 1, 1), 1.5, np.float32)
    with pytest.raises(ModelError, match="has 5 thresholds for"):
        make()(model)


@pytest.mark.parametrize("levels", [1e30, 0.25])
def test_impossible_levels_are_not_written_down(bench, levels):
    _, model, make = quantise(bench, net("QCFS (a, theta, T)").replace("{4.0}", f"{{{levels}}}"))
    make()(model)
    (neuron,) = model.record.neurons
    assert neuron.trained_levels is None
    assert FileRecord.from_props(model.record.to_props()) is not None
