"""Stage 4: where a static tensor meets one that varies in time, it is repeated."""

import numpy as np
import pytest

from graphpass.model import to_bytes
from graphpass.neurons import matmul
from graphpass.passes.emit_spikes import EmitSpikes
from graphpass.passes.repeat_static import RepeatStatic

RESIDUAL = """g (float[N,3,4,4] x) => (float[N,3,4,4] y) {
    a = Conv (x, w) r = Relu (a) b = Conv (r, w) c = Add (a, b) d = Sub (c, a) s = Relu (d)
    y = Conv (s, w) }"""
SHAPES = {"w": (3, 3, 1, 1)}


def trains(bench, text, shapes, opset=17):
    """Neurons with a time axis, before anything is repeated; and the time flow of stage 3."""
    model = bench.copy(bench.calibrated(bench.net(text, shapes, opset)))
    flow = bench.flow(model)
    EmitSpikes(flow, matmul.build)(model)
    return model, flow


@pytest.mark.parametrize("opset", [8, 13, 26])
def test_one_repetition_for_all_readers(bench, opset):
    model, flow = trains(bench, RESIDUAL, SHAPES, opset)
    assert {name: len(nodes) for name, nodes in flow.repeated.items()} == {"a": 2}
    assert RepeatStatic(flow, 4)(model).modified
    (node,) = [n for n in model.graph.nodes if n.op == "RepeatInTime"]
    assert node.inputs[0].name == "a"
    assert sorted(n.op for n in node.outputs[0].outputs) == ["Add", "Sub"]
    static = [n for n in model.graph.nodes if n.op == "ParallelSpikesStatic"]
    assert [n.inputs[0].name for n in static] == ["a"], "a neuron reads it once"


def test_second_run_finds_nothing(bench):
    model, flow = trains(bench, RESIDUAL, SHAPES)
    RepeatStatic(flow, 4)(model)
    content = to_bytes(model)
    assert not RepeatStatic(bench.flow(model), 4)(model).modified
    assert to_bytes(model) == content


def test_only_the_batch_axis_is_repeated(bench):
    model, flow = trains(bench, RESIDUAL, SHAPES)
    RepeatStatic(flow, 4)(model)
    (node,) = [n for n in model.graph.nodes if n.op == "RepeatInTime"]
    np.testing.assert_array_equal(node.inputs[1].values, [4, 1, 1, 1])


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        (
            """g (float[N,3,5] x) => (float[3,N,5] y) { t = Transpose <perm = [1,0,2]> (x)
               r = Relu (t) a = MatMul (r, w) b = Add (a, t) y = Relu (b) }""",
            [1, 4, 1],
        ),
        (
            """g (float[N,5] x) => (float[5,N] y) { t = Transpose <perm = [1,0]> (x)
               r = Relu (t) a = MatMul (w, r) b = Add (a, t) y = Relu (b) }""",
            [1, 4],
        ),
    ],
)
def test_repeats_the_axis_that_the_batch_is_on(bench, text, repeats):
    model, flow = trains(bench, text, {"w": (5, 5)})
    RepeatStatic(flow, 4)(model)
    (node,) = [n for n in model.graph.nodes if n.op == "RepeatInTime"]
    assert node.inputs[1].values.tolist() == repeats


def test_constants_and_tensors_without_the_batch_are_not_repeated(bench):
    text = """g (float[N,3,4,4] x, float[N,3,4,4] z) => (float[N,3,4,4] y)
            <float[3,1,1] k = {1.0, 2.0, 3.0}> {
        r = Relu (x) a = Conv (r, w) b = Mul (a, k) c = Add (k, b) s = Relu (c)
        y = Conv (s, w) t = Abs (z) }"""
    model, flow = trains(bench, text, SHAPES)
    assert flow.repeated == {}
    ops, content = bench.ops(model), to_bytes(model)
    assert not RepeatStatic(flow, 4)(model).modified
    assert bench.ops(model) == ops
    assert to_bytes(model) == content


def test_graph_input_is_repeated_and_keeps_its_name(bench):
    text = """g (float[N,3,4,4] x) => (float[N,3,4,4] y) {
        r = Relu (x) a = Conv (r, w) b = Add (a, x) y = Relu (b) }"""
    stage3 = bench.calibrated(bench.net(text, SHAPES))
    snn = bench.emitted(stage3, "matmul")
    assert [t.name for t in snn.graph.inputs] == ["x"]
    bench.same_outputs(stage3, snn, atol=1e-4)
