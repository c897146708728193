"""The walk over a whole graph: tail, islands, repetition, neurons."""

import pytest

from graphpass.timeflow import Kind, infer

K = "float[3,3,1,1] k = {1,2,3,4,5,6,7,8,9}"


def kinds(flow, names):
    return {name: flow.types[name].kind.value for name in names.split()}


def net(body, x="N,3,4,4", more="", out="y"):
    return f"g (float[{x}] x) => (float {out}) <{K}{more}> {{ {body} }}"


def test_static_before_the_first_neuron(bench):
    flow = bench.infer(
        net("a = Conv (x, k) b = Sigmoid (a) r = Relu (b) c = Conv (r, k) y = Relu (c)"), ["r", "y"]
    )
    assert kinds(flow, "x a b r c y") == {
        "x": "static",
        "a": "static",
        "b": "static",
        "r": "spikes",
        "c": "current",
        "y": "spikes",
    }
    assert flow.refused == []
    assert flow.repeated == {}
    assert flow.averaged == {"y": []}


def test_mean_then_softmax(bench):
    """Averaging after the Softmax gives other classes; it is averaged before."""
    flow = bench.infer(net("r = Relu (x) c = Conv (r, k) y = Softmax <axis = 1> (c)"), ["r"])
    assert {name: [n.op for n in nodes] for name, nodes in flow.averaged.items()} == {
        "c": ["Softmax"]
    }
    assert kinds(flow, "c y") == {"c": "current", "y": "rate"}


def test_linear_operators_of_the_tail_stay_in_time(bench):
    flow = bench.infer(net("r = Relu (x) c = Conv (r, k) y = GlobalAveragePool (c)"), ["r"])
    assert kinds(flow, "c y") == {"c": "current", "y": "current"}
    assert list(flow.averaged) == ["y"]


def test_rates_of_the_tail_stay_rates(bench):
    body = "r = Relu (x) c = Conv (r, k) s = Sigmoid (c) d = Add (s, c) e = Mul (d, x) y = Exp (e)"
    flow = bench.infer(net(body), ["r"])
    assert kinds(flow, "c s d e y") == {
        "c": "current",
        "s": "rate",
        "d": "rate",
        "e": "rate",
        "y": "rate",
    }
    assert sorted(n.op for n in flow.averaged["c"]) == ["Add", "Sigmoid"]
    assert flow.repeated == {}
    assert flow.refused == []


def test_a_reader_is_named_once(bench):
    flow = bench.infer(net("r = Relu (x) c = Conv (r, k) y = Mul (c, c)"), ["r"])
    assert [n.op for n in flow.averaged["c"]] == ["Mul"]


@pytest.mark.parametrize(
    "body",
    [
        "y = ReduceMean <axes = [0]> (c)",
        "y = Reshape (c, t)",
        "y = MaxPool <kernel_shape = [2,2]> (c)",
    ],
)
def test_what_the_tail_cannot_do_in_time_it_does_on_the_mean(bench, body):
    flow = bench.infer(
        net(f"r = Relu (x) c = Conv (r, k) {body}", more=", int64[1] t = {48}"), ["r"]
    )
    assert flow.refused == []
    assert list(flow.averaged) == ["c"]


def test_island_between_neurons_is_refused(bench):
    flow = bench.infer(net("r = Relu (x) c = Conv (r, k) s = Sigmoid (c) y = Relu (s)"), ["r", "y"])
    assert [refused.node.op for refused in flow.refused] == ["Sigmoid"]
    assert "not linear" in flow.refused[0].refusal.reason


def test_side_branch_without_neurons_is_tail_too(bench):
    body = "r = Relu (x) c = Conv (r, k) s = Sigmoid (c) n = Relu (c) y = Conv (n, k)"
    flow = bench.infer(f"g (float[N,3,4,4] x) => (float y, float s) <{K}> {{ {body} }}", ["r", "n"])
    assert flow.refused == []
    assert kinds(flow, "s y") == {"s": "rate", "y": "current"}


def test_static_that_meets_a_current_is_repeated_for_that_reader(bench):
    body = "a = Conv (x, k) r = Relu (a) b = Conv (r, k) c = Add (b, a) y = Relu (c)"
    flow = bench.infer(net(body), ["r", "y"])
    assert {name: [n.op for n in nodes] for name, nodes in flow.repeated.items()} == {"a": ["Add"]}


def test_intermediate_output_is_averaged_for_the_caller_only(bench):
    body = "r = Relu (x) c = Conv (r, k) y = Relu (c)"
    flow = bench.infer(f"g (float[N,3,4,4] x) => (float y, float c) <{K}> {{ {body} }}", ["r", "y"])
    assert flow.averaged == {"y": [], "c": []}


def test_output_that_is_a_weight(bench):
    flow = bench.infer(
        f"g (float[N,3,4,4] x) => (float y, float[3,3,1,1] k) <{K}> {{ y = Relu (x) }}", ["y"]
    )
    assert flow.averaged == {"y": []}


def test_neuron_without_the_batch_is_refused(bench):
    flow = bench.infer(net("r0 = Abs (k) r = Relu (r0) y = Conv (x, r)"), ["r"])
    assert "does not carry the batch" in flow.refused[0].refusal.reason


def test_neuron_in_double_precision_is_refused(bench):
    flow = bench.infer("g (double[N,3] x) => (double y) { y = Relu (x) }", ["y"])
    assert flow.refused[0].refusal.reason == "computes in float64"
    assert "float32" in flow.refused[0].refusal.remedy


QCFS = (
    "g (float[N,2,4,4] x) => (float y) <{w},"
    " float T = {{4.0}}, float[2,2,1,1] k = {{1,2,3,4}}> {{ {body} }}"
)


@pytest.mark.parametrize(
    ("theta", "axis"),
    [("float theta = {1}", 1), ("float[1] theta = {1}", 1), ("float[2,1,1] theta = {1,2}", 1)],
)
def test_thresholds_along_the_channels(bench, theta, axis):
    body = "a = Conv (x, k) y = graphpass.QCFS (a, theta, T)"
    flow = bench.infer(QCFS.format(w=theta, body=body), ["y"])
    assert flow.refused == []
    assert flow.types["y"].channel_axis == axis


def test_thresholds_say_where_the_channels_are(bench):
    body = "y = graphpass.QCFS (x, theta, T)"
    flow = bench.infer(QCFS.format(w="float[2,1,1] theta = {1,2}", body=body), ["y"])
    assert flow.types["x"].channel_axis is None
    assert flow.types["y"].channel_axis == 1


@pytest.mark.parametrize(
    "theta", ["float[4] theta = {1,2,3,4}", "float[2,4,1] theta = {1,2,3,4,5,6,7,8}"]
)
def test_thresholds_along_another_axis_are_refused(bench, theta):
    body = "a = Conv (x, k) y = graphpass.QCFS (a, theta, T)"
    flow = bench.infer(QCFS.format(w=theta, body=body), ["y"])
    assert "has thresholds along" in flow.refused[0].refusal.reason
    assert "one for each channel" in flow.refused[0].refusal.remedy


def test_unknown_rank_is_refused(bench):
    model = bench.model("g (float[N,3] x) => (float y) { y = Relu (x) }")
    model.graph.inputs[0].shape = None
    assert "unknown rank" in infer(model, ["y"]).refused[0].refusal.reason


def test_body_of_control_flow_that_reads_spikes_is_refused(bench):
    text = net(
        "r = Relu (x) c = Conv (r, k) y0 = If <then_branch = t () => (float z) { z = Neg (c) },"
        " else_branch = e () => (float z) { z = Abs (c) }> (flag) y = Relu (y0)"
    ).replace("(float[N,3,4,4] x)", "(float[N,3,4,4] x, bool flag)")
    flow = bench.infer(text, ["r", "y"])
    assert "body that reads spikes" in flow.refused[0].refusal.reason


def test_embedding_carries_the_batch_of_its_indices(bench):
    flow = bench.infer(
        "g (int64[N,5] x) => (float y) <float[4,2] table = {1,2,3,4,5,6,7,8}>"
        " { e = Gather <axis = 0> (table, x) y = Relu (e) }",
        ["y"],
    )
    assert flow.refused == []
    assert flow.types["e"].batch_axis == 0


def test_stages_with_a_time_axis_are_typed_too(bench):
    body = "a = graphpass.RepeatInTime (x, t) y = graphpass.MeanOverTime (a, k, t, t, t)"
    flow = bench.infer(net(body, more=", int64[4] t = {4, 1, 1, 1}"), [])
    assert flow.types["a"].kind is Kind.CURRENT
    assert flow.types["y"].kind is Kind.RATE
    assert flow.averaged == {}


@pytest.mark.parametrize(
    "body",
    [
        "h = Shape <start = 1> (r)",
        "s = Shape (r) h = Gather (s, last)",
        "s = Shape (r) h = Slice (s, two, end)",
    ],
)
def test_sizes_of_features_are_the_same_at_every_step(bench, body):
    more = ", int64[1] last = {-1}, int64[1] two = {2}, int64[1] end = {9}"
    flow = bench.infer(
        f"g (float[N,3,4,4] x) => (float y, int64 h) <{K}{more}>"
        f" {{ r = Relu (x) {body} c = Conv (r, k) y = Relu (c) }}",
        ["r", "y"],
    )
    assert flow.refused == []
    assert flow.types["h"].kind is Kind.STATIC


def test_what_mixes_samples_has_no_batch_even_where_nothing_varies(bench):
    """Twice as many rows as samples: no neuron may take them for its batch."""
    text = "g (float[N,3] x) => (float[M,3] y) { a = Concat <axis = 0> (x, x) y = Relu (a) }"
    flow = bench.infer(text, ["y"])
    assert flow.types["a"].batch_axis is None
    assert "does not carry the batch" in flow.refused[0].refusal.reason
