"""Stage 4 of small nets: every form gives what stage 3 gives, at every batch size."""

import pytest

from graphpass.model import to_bytes
from graphpass.neurons import Carrier, matmul
from graphpass.passes.emit_spikes import EmitSpikes

FORMS = ["matmul", "sorted", "counts"]
C = "float zero = {0.0}, float two = {2.0}"

# name -> (text, shapes of random weights)
NETS = {
    "convolutions": (
        f"""g (float[N,2,6,6] x) => (float[N,3,6,6] y) <{C}> {{
            a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (a)
            b = Conv <pads = [1,1,1,1]> (r, w2, b2) s = Clip (b, zero, two)
            y = Conv <pads = [1,1,1,1]> (s, w2) }}""",
        {"w1": (3, 2, 3, 3), "b1": (3,), "w2": (3, 3, 3, 3), "b2": (3,)},
    ),
    "residual with a static branch": (
        """g (float[N,2,4,4] x) => (float[N,3,4,4] y) {
            t = Conv (x, w0) a = Conv (t, w1) r = Relu (a) b = Conv (r, w2)
            s = Add (t, b) q = Relu (s) c = Conv (q, w1) d = Add (s, c) y = Relu (d) }""",
        {"w0": (3, 2, 1, 1), "w1": (3, 3, 1, 1), "w2": (3, 3, 1, 1)},
    ),
    "residual with a spiking branch": (
        """g (float[N,2,4,4] x) => (float[N,2,4,4] y) {
            r = Relu (x) b = Conv (r, w) s = Add (r, b) q = Relu (s) p = Sub (q, r)
            y = Conv (p, w) }""",
        {"w": (2, 2, 1, 1)},
    ),
    "perceptron": (
        """g (float[N,5] x) => (float[N,4] y) {
            a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) b = Gemm (r, w2) s = Relu (b)
            y = MatMul (s, w3) }""",
        {"w1": (6, 5), "b1": (6,), "w2": (6, 7), "w3": (7, 4)},
    ),
    "sequence, channels last": (
        """g (float[N,3,5] x) => (float[N,3,4] y) {
            a = MatMul (x, w1) c = Add (a, b1) r = Relu (c) b = MatMul (r, w2) s = Relu (b)
            y = MatMul (s, w3) }""",
        {"w1": (5, 6), "b1": (6,), "w2": (6, 7), "w3": (7, 4)},
    ),
    "batch on axis 1": (
        """g (float[N,3,5] x) => (float[N,3,4] y) {
            t = Transpose <perm = [1,0,2]> (x) a = MatMul (t, w1) r = Relu (a)
            b = MatMul (r, w2) c = Add (b, a) s = Relu (c) d = MatMul (s, w3)
            y = Transpose <perm = [1,0,2]> (d) }""",
        {"w1": (5, 6), "w2": (6, 6), "w3": (6, 4)},
    ),
    "batch on the last axis": (
        """g (float[N,5] x) => (float[N,4] y) {
            t = Transpose <perm = [1,0]> (x) a = MatMul (w1, t) r = Relu (a)
            b = MatMul (w2, r) c = Sub (a, b) s = Relu (c) d = MatMul (w3, s)
            y = Transpose <perm = [1,0]> (d) }""",
        {"w1": (6, 5), "w2": (6, 6), "w3": (4, 6)},
    ),
    "transposed convolution": (
        """g (float[N,2,3,3] x) => (float[N,2,5,5] y) {
            a = Conv (x, w1) r = Relu (a) b = ConvTranspose (r, w2, b2) s = Relu (b)
            y = Conv <pads = [1,1,1,1]> (s, w3) }""",
        {"w1": (4, 2, 1, 1), "w2": (4, 3, 3, 3), "b2": (3,), "w3": (2, 3, 3, 3)},
    ),
    "concatenation with the input": (
        """g (float[N,2,4,4] x) => (float[N,2,4,4] y) {
            a = Conv (x, w1) r = Relu (a) c = Concat <axis = 1> (x, r) b = Conv (c, w2)
            s = Relu (b) d = Concat <axis = 1> (r, s) y = Conv (d, w3) }""",
        {"w1": (3, 2, 1, 1), "w2": (3, 5, 1, 1), "w3": (2, 6, 1, 1)},
    ),
    "split": (
        """g (float[N,4,3,3] x) => (float[N,2,3,3] y)
            <int64[2] parts = {1, 3}, int64[2] halves = {1, 1}> {
            r = Relu (x) a, b = Split <axis = 1> (r, parts) c = Conv (b, w1) d = Add (a, c)
            s = Relu (d) e, f = Split <axis = 1> (s, halves) y = Concat <axis = 1> (f, e) }""",
        {"w1": (2, 3, 1, 1)},
    ),
    "slices": (
        """g (float[N,4,5,5] x) => (float[N,2,2,2] y)
            <int64[1] one = {1}, int64[2] from = {1, 2}, int64[2] to = {4, 5},
             int64[2] axes = {2, -1}, int64[2] by = {2, 2}> {
            r = Relu (x) a = Conv (r, w1) b = Slice (a, from, to, axes, by) s = Relu (b)
            y = Conv (s, w2) }""",
        {"w1": (3, 4, 1, 1), "w2": (2, 3, 1, 1)},
    ),
    "zero padding": (
        """g (float[N,2,3,3] x) => (float[N,2,3,3] y)
            <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
            r = Relu (x) p = Pad (r, pads) a = Conv (p, w1) s = Relu (a)
            q = Pad <mode = "reflect"> (s, pads) y = Conv (q, w1) }""",
        {"w1": (2, 2, 3, 3)},
    ),
    "padding by a number": (
        """g (float[N,2,3,3] x) => (float[N,2,3,3] y)
            <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float value = {0.7}> {
            r = Relu (x) p = Pad (r, pads, value) a = Conv (p, w1) s = Relu (a)
            y = Conv <pads = [1, 1, 1, 1]> (s, w1) }""",
        {"w1": (2, 2, 3, 3)},
    ),
    "pools": (
        """g (float[N,2,8,8] x) => (float[N,3] y) {
            a = Conv (x, w1) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a) r = Relu (p)
            b = Conv (r, w2) s = Relu (b)
            q = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (s)
            c = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1]> (q) t = Conv (c, w2, b2)
            u = Relu (t) v = GlobalAveragePool (u) y = Flatten (v) }""",
        {"w1": (3, 2, 1, 1), "w2": (3, 3, 1, 1), "b2": (3,)},
    ),
    "reshapes": (
        """g (float[N,2,4,3] x) => (float[N,8] y)
            <int64[3] rows = {0, 2, -1}, int64[2] tokens = {-1, 12}, int64[3] back = {-1, 2, 4}> {
            r = Relu (x) a = Reshape (r, rows) f = Reshape (a, tokens) b = MatMul (f, w1)
            s = Relu (b) c = Reshape (s, back) d = MatMul (c, w2) t = Relu (d)
            y = Flatten (t) }""",
        {"w1": (12, 4), "w2": (4, 4)},
    ),
    "normalisation in front": (
        """g (float[N,3,4,4] x) => (float[N,3,4,4] y) <float[3] var = {0.5, 1.0, 2.0}> {
            a = BatchNormalization (x, g1, b1, m1, var) r = Relu (a)
            b = Conv (r, w1) c = Add (b, x) d = BatchNormalization (c, g1, b1, m1, var)
            s = Relu (d) y = Conv (s, w1) }""",
        {"g1": (3,), "b1": (3,), "m1": (3,), "w1": (3, 3, 1, 1)},
    ),
    "gate": (
        """g (float[N,3,4,4] x, float[N,3,1,1] z) => (float[N,3,4,4] y) {
            r = Relu (x) a = Conv (r, w1) k = Sigmoid (z) b = Mul (a, k) s = Relu (b)
            y = Div (s, k) }""",
        {"w1": (3, 3, 1, 1)},
    ),
    "softmax behind the last neuron": (
        """g (float[N,5] x) => (float[N,4] y, float[N,6] r) {
            a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) s = Relu (b) c = MatMul (s, w3)
            y = Softmax <axis = 1> (c) }""",
        {"w1": (5, 6), "w2": (6, 6), "w3": (6, 4)},
    ),
}


@pytest.fixture(params=NETS)
def proto(bench, request):
    text, shapes = NETS[request.param]
    return bench.net(text, shapes)


@pytest.mark.parametrize("form", FORMS)
def test_forms_equal_stage_3(bench, proto, form):
    stage3 = bench.calibrated(proto)
    snn = bench.emitted(stage3, form)
    bench.same_outputs(stage3, snn, (1, 3, 2, 1), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 16])
@pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 18, 26])
@pytest.mark.parametrize("form", FORMS)
def test_opsets_and_steps(bench, opset, steps, form):
    text, shapes = NETS["residual with a static branch"]
    stage3 = bench.calibrated(bench.net(text, shapes, opset), steps)
    bench.same_outputs(stage3, bench.emitted(stage3, form), atol=1e-4)


def test_analog_first_activation_is_repeated(bench):
    text, shapes = NETS["residual with a static branch"]
    stage3 = bench.calibrated(bench.net(text, shapes), first_activation="analog")
    assert "Relu" in bench.ops(stage3)
    snn = bench.emitted(stage3, "matmul")
    bench.same_outputs(stage3, snn, atol=1e-4)


def test_names_and_records_stay(bench):
    text, shapes = NETS["convolutions"]
    stage3 = bench.calibrated(bench.net(text, shapes))
    model = bench.copy(stage3)
    before = {n.name: n for n in model.record.neurons}
    assert EmitSpikes(bench.flow(model), matmul.build)(model).modified
    spiking = [n for n in model.graph.nodes if n.op.startswith("ParallelSpikes")]
    assert [n.outputs[0].name for n in spiking] == list(before) == ["r", "s"]
    assert [n.op for n in spiking] == ["ParallelSpikesStatic", "ParallelSpikes"]
    for neuron in model.record.neurons:
        assert neuron.carrier is Carrier.TRAIN
        assert neuron.threshold.tolist() == before[neuron.name].threshold.tolist()
    content = to_bytes(model)
    assert not EmitSpikes(bench.flow(model), matmul.build)(model).modified
    assert to_bytes(model) == content


def test_model_without_neurons_is_left_alone(bench):
    make = EmitSpikes
    text = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"
    bench.unchanged(lambda: make(bench.flow(bench.model(text)), matmul.build), text)


@pytest.mark.parametrize("form", FORMS)
def test_same_stage_same_bytes(bench, form):
    text, shapes = NETS["convolutions"]
    stage3 = bench.calibrated(bench.net(text, shapes))
    assert to_bytes(bench.emitted(stage3, form)) == to_bytes(bench.emitted(stage3, form))
