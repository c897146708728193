"""Weights between two quantisers that stay: ONNX Runtime must not round them again."""

import numpy as np
import onnxruntime as ort
import pytest

from graphpass.model import to_proto
from graphpass.passes.keep_integer_kernels import KeepIntegerKernels

CONSTANTS = (
    "float s = {0.05}, float s2 = {0.07}, uint8 z = {128}, int8[2,2,1,1] w = {101, 7, -9, 3},"
    " uint8[2,2,1,1] u = {221, 127, 111, 123}, float one = {0.011}, float[1] half = {0.5},"
    " float[2,1,1,1] rows = {0.011, 0.004}, float[1,2,1,1] columns = {0.011, 0.002},"
    " float[2,1,1,1] signs = {0.011, -0.004}, float[2,1,1,1] none = {0.011, 0.0},"
    " float[2,1,1,1] tiny = {0.011, 1e-13}, float middle = {120.0}, float[2,1,1,1] odd = {3, 2.5},"
    " float[2] b = {0.5, -0.25}, int8[2,2,1,1] lowest = {-128, 7, -128, 3},"
    " int8[4,4] m = {5, -3, 9, 1, 0, 2, 7, -7, 8, 1, -1, 4, 3, 3, -8, 6},"
    " float[1,4] last = {0.011, 0.02, 0.013, 0.05}, float[4,1] first = {0.011, 0.02, 0.013, 0.05}"
)
READ = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)"
WRITE = "r = QuantizeLinear (c, s2, z) y = DequantizeLinear (r, s2, z)"
ROWS = "i = Cast <to = 1> (w) k = Mul (i, rows)"


def net(layer, weight=ROWS, read=READ, write=WRITE):
    shape = "[J,K]" if "Gemm" in layer else "[N,2,K,L]"
    body = f"{read} {weight} {layer} {write}"
    return f"g (float[N,2,4,4] x) => (float{shape} y) <{CONSTANTS}> {{ {body} }}"


def outputs(proto, feeds, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    content = proto.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


CHANGED = [
    ("c = Conv (d, k)", ROWS),
    ("c = Conv (d, k, b)", ROWS),
    ("e = Conv (d, k, b) c = Relu (e)", ROWS),
    ("t = Transpose <perm = [0,1,3,2]> (d) c = Conv (t, k)", ROWS),
    ("e = Conv (d, k) c = MaxPool <kernel_shape = [2,2]> (e)", ROWS),
    ("c = Conv (d, k)", "i = Cast <to = 1> (u) j = Sub (i, middle) k = Mul (j, rows)"),
    ("c = Conv (d, k)", "i = Cast <to = 1> (w) j = Mul (i, half) k = Mul (j, signs)"),
    ("c = Conv (d, k, b)", "i = Cast <to = 1> (w) k = Mul (i, none)"),
    ("c = ConvTranspose (d, k)", "i = Cast <to = 1> (w) k = Mul (i, columns)"),
    ("f = Flatten <axis = 3> (d) c = Gemm (f, k)", "i = Cast <to = 1> (m) k = Mul (i, last)"),
    (
        "f = Flatten <axis = 3> (d) c = Gemm <transB = 1> (f, k)",
        "i = Cast <to = 1> (m) k = Mul (i, first)",
    ),
]


@pytest.mark.parametrize(("layer", "weight"), CHANGED)
def test_the_same_with_and_without_the_optimiser(bench, layer, weight):
    before = bench.proto(net(layer, weight))
    model = bench.model(before)
    assert KeepIntegerKernels()(model).modified
    assert bench.ops(model).count("DequantizeLinear") == 3
    assert not {"Cast", "Mul", "Sub"} & set(bench.ops(model))
    assert not KeepIntegerKernels()(model).modified
    after, feeds = to_proto(model), bench.feeds(before, 3)
    bench.check(after)
    written = outputs(before, feeds, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert np.ptp(written) > 1
    for level in (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        steps = np.abs(outputs(after, feeds, level) - written) / 0.07
        assert steps.max() < 1.01  # a float32 sum beside a tie
        assert np.mean(steps > 0.01) < 0.02


def test_onnx_runtime_would_round_them_again(bench):
    before = bench.proto(net("c = Conv (d, k)"))
    feeds = bench.feeds(before, 3)
    written, optimised = (
        outputs(before, feeds, level)
        for level in (
            ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
            ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        )
    )
    assert np.mean(np.abs(optimised - written) > 0.03) > 0.02, "this pass is not needed any more"


def test_one_scale_in_opsets_without_axis(bench):
    weight = "i = Cast <to = 1> (w) k = Mul (i, one)"
    model = bench.model(bench.proto(net("c = Conv (d, k)", weight), 11))
    assert KeepIntegerKernels()(model).modified
    assert (
        KeepIntegerKernels()(bench.model(bench.proto(net("c = Conv (d, k)"), 11))).modified is False
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("reads floats", {"layer": "c = Conv (x, k)"}),
        ("reads what was added", {"layer": "a = Add (d, d) c = Conv (a, k)"}),
        ("nothing is rounded behind it", {"layer": "c = Conv (d, k)", "write": "y = Relu (c)"}),
        ("another function before it is", {"layer": "e = Conv (d, k) c = Sigmoid (e)"}),
        (
            "scales along inputs",
            {"layer": "c = Conv (d, k)", "weight": "i = Cast <to = 1> (w) k = Mul (i, columns)"},
        ),
        (
            "zero points between integers",
            {
                "layer": "c = Conv (d, k)",
                "weight": "i = Cast <to = 1> (w) j = Sub (i, odd) k = Mul (j, rows)",
            },
        ),
        (
            "integers that do not turn over",
            {
                "layer": "c = Conv (d, k)",
                "weight": "i = Cast <to = 1> (lowest) k = Mul (i, signs)",
            },
        ),
        (
            "a bias beyond 32 bits",
            {
                "layer": "c = Conv (d, k, b)",
                "weight": "i = Cast <to = 1> (w) k = Mul (i, tiny)",
            },
        ),
        (
            "weights that vary",
            {
                "layer": "c = Conv (d, k)",
                "weight": "j = Abs (rows) i = Cast <to = 1> (w) k = Mul (i, j)",
            },
        ),
    ],
)
def test_near_misses(bench, name, changes):
    model = bench.model(bench.proto(net(**changes)))
    assert not KeepIntegerKernels()(model).modified
