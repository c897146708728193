"""Stage 4, form `counts`: each DA-QCFS becomes a clamp and a Floor."""

import numpy as np
import pytest

from graphpass.model import to_bytes, to_proto
from graphpass.neurons import Carrier
from graphpass.passes.count_spikes import CountSpikes

# name -> (text, shapes, operators that are left beside those of stage 3)
NETS = {
    "layer": (
        "(float[N,2,4,4] x) => (float[N,3,4,4] y) { a = Conv (x, w) y = Relu (a) }",
        {"w": (3, 2, 1, 1)},
        ["Conv", "SpikeCount", "Mul"],
    ),
    "gemm": (
        "(float[N,4] x) => (float[N,3] y) { a = Gemm (x, w, b) y = Relu (a) }",
        {"w": (4, 3), "b": (3,)},
        ["Gemm", "SpikeCount", "Mul"],
    ),
    "sum of layers": (
        "(float[N,2,4,4] x) => (float[N,3,4,4] y)"
        " { a = Conv (x, w) b = Conv (x, v) c = Add (a, b) y = Relu (c) }",
        {"w": (3, 2, 1, 1), "v": (3, 2, 1, 1)},
        ["Conv", "Conv", "Add", "SpikeCount", "Mul"],
    ),
    "pooled layer": (
        "(float[N,2,4,4] x) => (float[N,3,3,3] y) { a = Conv (x, w)"
        " p = AveragePool <kernel_shape = [2,2]> (a) y = Relu (p) }",
        {"w": (3, 2, 1, 1)},
        ["Conv", "AveragePool", "SpikeCount", "Mul"],
    ),
    "joined layers": (
        "(float[N,2,4,4] x) => (float[N,5,4,4] y) { a = Conv (x, w) b = Conv (x, v)"
        " c = Concat <axis = 1> (a, b) k = Conv (c, u) y = Relu (k) }",
        {"w": (3, 2, 1, 1), "v": (2, 2, 1, 1), "u": (5, 5, 1, 1)},
        ["Conv", "Conv", "Concat", "Conv", "SpikeCount", "Mul"],
    ),
    "nothing before it": (
        "(float[N,2,4,4] x) => (float[N,2,4,4] y) { y = Relu (x) }",
        {},
        ["Mul", "Add", "SpikeCount", "Mul"],
    ),
    "layer that is read twice": (
        "(float[N,2,4,4] x) => (float[N,3,4,4] y) { a = Conv (x, w) r = Relu (a) y = Add (r, a) }",
        {"w": (3, 2, 1, 1)},
        ["Conv", "Mul", "Add", "SpikeCount", "Mul", "Add"],
    ),
    "padded average": (
        "(float[N,2,4,4] x) => (float[N,3,5,5] y) { a = Conv (x, w)"
        " p = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1]> (a) y = Relu (p) }",
        {"w": (3, 2, 1, 1)},
        None,
    ),
}


@pytest.fixture(params=NETS)
def net(bench, request):
    text, shapes, ops = NETS[request.param]
    return bench.calibrated(bench.net(f"g {text}", shapes)), ops


def test_charge_goes_where_it_costs_nothing(bench, net):
    before, ops = net
    model = bench.copy(before)
    assert CountSpikes()(model).modified
    if ops is not None:
        assert sorted(bench.ops(model)) == sorted(ops)
    bench.same_outputs(before, model, atol=1e-4)
    (neuron,) = model.record.neurons
    assert neuron.carrier is Carrier.COUNT
    names = {name for node in to_proto(model).graph.node for name in node.output}
    assert {neuron.potential, neuron.spikes} <= names
    content = to_bytes(model)
    assert not CountSpikes()(model).modified
    assert to_bytes(model) == content


def test_shared_weights_are_left_alone(bench):
    text = (
        "g (float[N,2,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z)"
        " { a = Conv (x, w) y = Relu (a) z = Conv (x, w) }"
    )
    before = bench.calibrated(bench.net(text, {"w": (2, 2, 1, 1)}))
    model = bench.copy(before)
    CountSpikes()(model)
    bench.same_outputs(before, model, atol=1e-4)
    old = {w.name: w.raw_data for w in to_proto(before).graph.initializer}
    new = {w.name: w.raw_data for w in to_proto(model).graph.initializer}
    assert new["w"] == old["w"]


def test_counts_are_whole_numbers_up_to_t(bench):
    text, shapes, _ = NETS["layer"]
    model = bench.copy(bench.calibrated(bench.net(f"g {text}", shapes), steps=5))
    CountSpikes()(model)
    (node,) = [n for n in model.graph.nodes if n.op == "SpikeCount"]
    spikes = node.outputs[0]
    spikes.dtype = np.dtype(np.float32)
    model.graph.outputs.append(spikes)
    found = [outputs[1] for outputs in bench.run(model)]
    assert set(np.unique(np.concatenate([f.ravel() for f in found]))) <= set(range(6))


def test_nothing_to_count(bench):
    text = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"
    bench.unchanged(CountSpikes, text)


TWINS = (
    "(float[N,2,4,4] x) => (float[N,3,4,4] y, float[N,3,4,4] z)"
    " { a = Conv (x, w) b = Conv (x, v) c = Add (a, b) y = Relu (c) z = Relu (c) }"
)


def test_neurons_that_share_a_current_share_its_charge(bench):
    """What computes it takes the charge of one; the other is told by the potential of that."""
    text, shapes = TWINS, {"w": (3, 2, 1, 1), "v": (3, 2, 1, 1)}
    before = bench.calibrated(bench.net(f"g {text}", shapes))
    model = bench.copy(before)
    CountSpikes()(model)
    ops = ["Conv", "Conv", "Add", "SpikeCount", "Mul", "Mul", "Add", "SpikeCount", "Mul"]
    assert sorted(bench.ops(model)) == sorted(ops)
    bench.same_outputs(before, model, atol=1e-4)
    first, second = model.record.neurons
    tensors = model.graph.tensors()
    assert tensors[first.potential].inputs[0].op == "Add"
    assert tensors[second.potential].inputs[0].inputs[0].inputs[0].op == "Mul"


@pytest.mark.parametrize(
    ("output", "node"), [("q", "q = Abs (c)"), ("c", "")], ids=["another reader", "an output"]
)
def test_a_current_that_others_see_is_left_alone(bench, output, node):
    text = TWINS.replace(") {", f", float[N,3,4,4] {output}) {{", 1).replace(" }", f" {node} }}")
    before = bench.calibrated(bench.net(f"g {text}", {"w": (3, 2, 1, 1), "v": (3, 2, 1, 1)}))
    model = bench.copy(before)
    CountSpikes()(model)
    bench.same_outputs(before, model, atol=1e-4)
    assert bench.ops(model).count("Add") == 3
