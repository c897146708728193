"""Stage 4, forms with spikes: the neurons of a population stand apart."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from graphpass import dialect, editing, populations
from graphpass.model import infer_shapes, to_bytes, to_proto
from graphpass.neurons import Ties, daqcfs
from graphpass.passes.part_populations import PartPopulations
from graphpass_runtime.errors import ModelError

NET = (
    "g (float[N,2,4,4] x) => (float[N,3,4,4] y)"
    " { a = Conv (x, w) r = Relu (a) b = Conv (r, v) e = Relu (b) y = Conv (e, v) }"
)
SHAPES = {"w": (3, 2, 1, 1), "v": (3, 3, 1, 1)}


def stage3(bench, members, opset=17, ties=Ties.HALF_UP):
    """The first layer is a population."""
    model = bench.calibrated(bench.net(NET, SHAPES, opset))
    first, second = model.record.neurons
    whole = replace(
        first, levels=first.levels * members, amplitude=first.amplitude / members, members=members
    )
    neurons = {n.name: replace(n, ties=ties) for n in (whole, second)}
    for node in model.graph.nodes:
        if editing.is_dialect(node, dialect.DAQCFS):
            daqcfs.build(model, node, neurons[node.outputs[0].name])
    editing.tidy(model)
    infer_shapes(model)
    model.note(neurons=tuple(neurons.values()))
    return model


@pytest.mark.parametrize("ties", Ties)
@pytest.mark.parametrize("opset", [11, 13, 17, 26])
@pytest.mark.parametrize("members", [2, 3, 5])
def test_same_outputs(bench, members, opset, ties):
    before = stage3(bench, members, opset, ties)
    model = bench.copy(before)
    assert PartPopulations()(model).modified
    name = dialect.with_ties(dialect.DAQCFS, ties)
    assert bench.ops(model) == ["Conv", *[name] * members, "Sum", "Conv", name, "Conv"]
    bench.same_outputs(before, model, atol=1e-5)
    apart = [f"r/{k + 1}" for k in range(members)]
    assert [neuron.name for neuron in model.record.neurons] == [*apart, "e"]
    joined = populations.joined(model.record.neurons)
    assert [(n.name, n.levels) for n in joined] == [("r", 4 * members), ("e", 4)]
    written = {name for node in to_proto(model).graph.node for name in node.output}
    for neuron in model.record.neurons:
        assert {neuron.name, neuron.potential, neuron.spikes} <= written
    content = to_bytes(model)
    assert not PartPopulations()(model).modified
    assert to_bytes(model) == content


def test_single_neurons_stay(bench):
    model = bench.calibrated(bench.net(NET, SHAPES))
    content = to_bytes(model)
    assert not PartPopulations()(model).modified
    assert to_bytes(model) == content


def test_a_name_that_is_taken_is_refused(bench):
    model = stage3(bench, 3)
    model.graph.tensors()["b"].name = "r/2"
    with pytest.raises(ModelError, match="tensor 'r/2', where the population 'r' has a neuron"):
        PartPopulations()(model)


def test_each_neuron_counts_as_its_record_says(bench):
    model = stage3(bench, 3)
    PartPopulations()(model)
    proto = to_proto(model)
    shown = ["a", *(n.spikes for n in model.record.neurons[:3])]
    kind = onnx.TensorProto.FLOAT
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, kind, ["N", 3, 4, 4]) for n in shown
    )
    current, *counts = bench.run_feeds(proto, bench.feeds(proto, 5))[1:]
    for neuron, found in zip(model.record.neurons, counts, strict=False):
        theta, shift = (p.reshape(3, 1, 1) for p in (neuron.threshold, neuron.shift))
        u = neuron.levels * (current.astype(np.float64) + shift) / theta + 0.5
        sure = np.abs(u - np.rint(u)) > 1e-4
        np.testing.assert_array_equal(found[sure], np.clip(np.floor(u), 0, 4)[sure])
    assert len({count.sum() for count in counts}) == 3
