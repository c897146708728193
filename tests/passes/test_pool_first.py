"""Stage 4, form `counts`: a neuron in front of a MaxPool moves behind it."""

from dataclasses import replace

import numpy as np
import pytest

from graphpass.model import to_bytes, to_proto
from graphpass.passes.pool_first import PoolFirst

PADDED = "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"
SHAPES = {"w": (3, 2, 1, 1)}


def stage3(bench, body, out="N,3,3,3", opset=17, more=""):
    text = f"g (float[N,2,5,5] x) => (float[{out}] y{more}) {{ a = Conv (x, w) {body} }}"
    return bench.calibrated(bench.net(text, SHAPES, opset))


def moved(bench, before, ops):
    model = bench.copy(before)
    assert PoolFirst()(model).modified
    assert bench.ops(model) == ops
    bench.same_outputs(before, model)
    content = to_bytes(model)
    assert not PoolFirst()(model).modified
    assert to_bytes(model) == content
    return model


def stays(bench, before):
    model = bench.copy(before)
    ops, content = bench.ops(model), to_bytes(model)
    assert not PoolFirst()(model).modified
    assert bench.ops(model) == ops
    assert to_bytes(model) == content


@pytest.mark.parametrize("opset", [8, 12, 17, 26])
def test_moves_behind_a_pool_with_padding(bench, opset):
    before = stage3(bench, f"r = Relu (a) y = {PADDED} (r)", opset=opset)
    model = moved(bench, before, ["Conv", "MaxPool", "DAQCFS"])
    assert [o.name for o in to_proto(model).graph.output] == ["y"]
    (neuron,) = model.record.neurons
    assert neuron.name == "r"
    assert [pool["op"] for pool in neuron.pools] == ["MaxPool"]


def test_moves_behind_several(bench):
    before = stage3(bench, f"r = Relu (a) p = {PADDED} (r) y = GlobalMaxPool (p)", "N,3,1,1")
    model = moved(bench, before, ["Conv", "MaxPool", "GlobalMaxPool", "DAQCFS"])
    assert [pool["op"] for pool in model.record.neurons[0].pools] == ["MaxPool", "GlobalMaxPool"]


def test_neuron_that_others_read_stays(bench):
    body = f"r = Relu (a) p = {PADDED} (r) q = GlobalMaxPool (r) y = Add (p, q)"
    stays(bench, stage3(bench, body))


def test_neuron_that_is_an_output_stays(bench):
    stays(bench, stage3(bench, f"r = Relu (a) y = {PADDED} (r)", more=", float[N,3,5,5] r"))


def test_average_pool_stays(bench):
    body = f"r = Relu (a) y = {PADDED.replace('Max', 'Average')} (r)"
    stays(bench, stage3(bench, body))


def test_negative_amplitude_stays(bench):
    before = stage3(bench, f"r = Relu (a) y = {PADDED} (r)")
    (neuron,) = before.record.neurons
    amplitude = neuron.amplitude * np.array([1, -1, 1], np.float32)
    before.note(neurons=(replace(neuron, amplitude=amplitude),))
    stays(bench, before)


def test_channels_that_would_be_pooled_keep_their_neuron(bench):
    body = f"t = Transpose <perm = [0, 2, 3, 1]> (a) r = Relu (t) y = {PADDED} (r)"
    before = stage3(bench, body, "N,5,3,2")
    (neuron,) = before.record.neurons
    assert neuron.channel_axis == 3
    stays(bench, before)
