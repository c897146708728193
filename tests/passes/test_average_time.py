"""Stage 4: the mean over time, in front of the tail and at the outputs."""

import pytest

from graphpass.model import to_bytes, to_proto
from graphpass.neurons import matmul
from graphpass.passes.average_time import AverageTime
from graphpass.passes.emit_spikes import EmitSpikes
from graphpass.passes.repeat_static import RepeatStatic

NET = """g (float[N,3,4,4] x) => (float[N,3,4,4] y{more}) {{
    a = Conv (x, w) r = Relu (a) b = Conv (r, w) s = Relu (b) c = Conv (s, w) {tail} }}"""
SHAPES = {"w": (3, 3, 1, 1)}


def trains(bench, text, shapes=SHAPES, opset=17):
    model = bench.copy(bench.calibrated(bench.net(text, shapes, opset)))
    flow = bench.flow(model)
    EmitSpikes(flow, matmul.build)(model)
    RepeatStatic(flow, 4)(model)
    return model, flow


def means(model):
    return [n for n in model.graph.nodes if n.op == "MeanOverTime"]


@pytest.mark.parametrize("opset", [8, 11, 13, 18, 26])
def test_output_keeps_its_name(bench, opset):
    text = NET.format(more="", tail="y = Neg (c)")
    model, flow = trains(bench, text, opset=opset)
    assert AverageTime(flow, 4)(model).modified
    (node,) = means(model)
    assert node.outputs[0].name == "y"
    assert node.inputs[0].inputs[0].op == "Neg"
    assert [t.name for t in model.graph.outputs] == ["y"]


def test_second_run_finds_nothing(bench):
    model, flow = trains(bench, NET.format(more="", tail="t = Exp (c) y = Add (t, c)"))
    AverageTime(flow, 4)(model)
    content = to_bytes(model)
    assert not AverageTime(bench.flow(model), 4)(model).modified
    assert to_bytes(model) == content


def test_one_mean_for_all_readers(bench):
    text = NET.format(more="", tail="t = Exp (c) u = Sigmoid (c) y = Add (t, u)")
    model, flow = trains(bench, text)
    AverageTime(flow, 4)(model)
    (node,) = means(model)
    assert node.inputs[0].name == "c"
    assert sorted(n.op for n in node.outputs[0].outputs) == ["Exp", "Sigmoid"]


def test_softmax_reads_the_mean(bench):
    text = NET.format(more="", tail="y = Softmax <axis = 1> (c)")
    stage3 = bench.calibrated(bench.net(text, SHAPES))
    snn = bench.emitted(stage3, "matmul")
    (node,) = means(snn)
    assert [n.op for n in node.outputs[0].outputs] == ["Softmax"]
    bench.same_outputs(stage3, snn, atol=1e-4)


@pytest.mark.parametrize("form", ["matmul", "sorted", "counts"])
def test_neurons_and_currents_that_are_outputs_and_are_read_further(bench, form):
    text = NET.format(more=", float[N,3,4,4] r, float[N,3,4,4] b", tail="y = Relu (c)")
    stage3 = bench.calibrated(bench.net(text, SHAPES))
    snn = bench.emitted(stage3, form)
    assert [o.name for o in to_proto(snn).graph.output] == ["y", "r", "b"]
    assert [n.name for n in snn.record.neurons] == ["r", "s", "y"]
    bench.same_outputs(stage3, snn, atol=1e-4)


def test_mean_is_read_behind_the_last_neuron_only(bench):
    text = NET.format(more=", float[N,3,4,4] b", tail="y = Neg (c)")
    model, flow = trains(bench, text)
    AverageTime(flow, 4)(model)
    by_source = {n.inputs[0].name: n for n in means(model)}
    assert by_source["b/in_time"].outputs[0].outputs == []
    (reader,) = [n for n in by_source["b/in_time"].inputs[0].outputs if n.op != "MeanOverTime"]
    assert reader.op.startswith("ParallelSpikes")


def test_notes_stay_with_their_node(bench):
    model, flow = trains(bench, NET.format(more="", tail="y = Neg (c)"))
    AverageTime(flow, 4)(model)
    said = {n.output[0]: n.doc_string for n in to_proto(model).graph.node}
    assert said["y/in_time"] == "about Neg y"
    assert said["y"] == ""


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (
            """g (float[N,3,5] x) => (float[3,N,5] y) { t = Transpose <perm = [1,0,2]> (x)
               r = Relu (t) a = MatMul (r, w) y = Softmax <axis = 2> (a) }""",
            (5, 5),
        ),
        (
            """g (float[N,5] x) => (float[5,N] y) { t = Transpose <perm = [1,0]> (x)
               r = Relu (t) a = MatMul (w, r) y = Softmax <axis = 0> (a) }""",
            (5, 5),
        ),
    ],
)
def test_mean_over_the_axis_that_the_batch_is_on(bench, text, shape):
    stage3 = bench.calibrated(bench.net(text, {"w": shape}))
    bench.same_outputs(stage3, bench.emitted(stage3, "matmul"), (1, 3, 1), atol=1e-4)


def test_nodes_named_like_the_output(bench):
    text = NET.format(more="", tail="[y] y = Neg (c)")
    stage3 = bench.calibrated(bench.net(text, SHAPES))
    snn = to_proto(bench.emitted(stage3, "matmul"))
    names = [node.name for node in snn.graph.node if node.name]
    assert len(names) == len(set(names))
    assert "y" in names


def test_nothing_varies(bench):
    text = NET.format(more="", tail="y = Neg (c)")
    stage3 = bench.calibrated(bench.net(text, SHAPES))
    model = bench.copy(stage3)
    flow = bench.flow(model)
    flow.averaged.clear()
    content = to_bytes(model)
    assert not AverageTime(flow, 4)(model).modified
    assert to_bytes(model) == content
