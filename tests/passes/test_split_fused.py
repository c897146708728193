"""What ONNX Runtime fused becomes standard operators again, with the same numbers."""

import onnx
import onnxruntime as ort
import pytest

from graphpass.model import from_proto, infer_shapes, to_proto
from graphpass.passes.split_fused import SplitFused

CONV = "c = Conv <pads = [1,1,1,1]> (x, w, b)"
SHAPES = {"w": (3, 3, 3, 3), "b": (3,)}


def fused(bench, text, shapes, opset, tmp_path):
    """The file that ONNX Runtime writes after its own fusions."""
    proto = bench.net(text, shapes, opset)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(tmp_path / "fused.onnx")


def run(proto, bench):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, bench.feeds(proto, batch))[0] for batch in (1, 3)]


@pytest.mark.parametrize("opset", [9, 12, 17])
@pytest.mark.parametrize(
    ("activation", "ops"),
    [
        ("Relu (c)", ["Conv", "Relu"]),
        ("Sigmoid (c)", ["Conv", "Sigmoid"]),
        ("Tanh (c)", ["Conv", "Tanh"]),
        ("LeakyRelu <alpha = 0.3> (c)", ["Conv", "LeakyRelu"]),
        ("HardSigmoid <alpha = 0.3, beta = 0.4> (c)", ["Conv", "HardSigmoid"]),
    ],
)
def test_convolution(bench, activation, ops, opset, tmp_path):
    text = f"g (float[N,3,4,4] x) => (float[N,3,4,4] y) {{ {CONV} y = {activation} }}"
    proto = fused(bench, text, SHAPES, opset, tmp_path)
    assert [n.op_type for n in proto.graph.node] == ["FusedConv"]
    compare(bench, proto, ops)


@pytest.mark.parametrize("opset", [9, 13])
def test_clip(bench, opset, tmp_path):
    clip = "Clip <min = -0.5, max = 0.7> (c)" if opset < 11 else "Clip (c, low, high)"
    text = (
        "g (float[N,3,4,4] x) => (float[N,3,4,4] y) <float low = {-0.5}, float high = {0.7}>"
        f" {{ {CONV} y = {clip} }}"
    )
    compare(bench, fused(bench, text, SHAPES, opset, tmp_path), ["Conv", "Clip"])


def test_gemm(bench, tmp_path):
    text = "g (float[N,5] x) => (float[N,4] y) { a = Gemm (x, w, b) y = Relu (a) }"
    compare(bench, fused(bench, text, {"w": (5, 4), "b": (4,)}, 13, tmp_path), ["Gemm", "Relu"])


def test_matmul(bench, tmp_path):
    text = """g (float[N,3,5] x, float[N,4,5] z) => (float[N,3,4] y) <float h = {0.5}> {
        t = Transpose <perm = [0,2,1]> (z) m = MatMul (x, t) y = Mul (m, h) }"""
    proto = fused(bench, text, {}, 13, tmp_path)
    assert [n.op_type for n in proto.graph.node] == ["FusedMatMul"]
    compare(bench, proto, ["Transpose", "MatMul", "Mul"])


def test_matmul_behind_another_whose_rank_is_not_written_down(bench, tmp_path):
    text = """g (float[N,3,5] x, float[N,4,5] z) => (float[N,4,5] y) <float h = {0.5}> {
        t = Transpose <perm = [0,2,1]> (z) m = MatMul (x, t) s = Mul (m, h) k = Relu (s)
        u = Transpose <perm = [0,2,1]> (k) v = MatMul (u, x) y = Mul (v, h) }"""
    proto = fused(bench, text, {}, 13, tmp_path)
    assert [n.op_type for n in proto.graph.node] == ["FusedMatMul", "Relu", "FusedMatMul"]
    del proto.graph.value_info[:]
    compare(bench, proto, [*("Transpose", "MatMul", "Mul") * 2, "Relu"])


def test_residual_sum(bench):
    """As the older optimiser wrote it: the sum comes before the activation."""
    text = """g (float[N,3,4,4] x) => (float[N,3,4,4] y) {
        y = Conv <pads = [1,1,1,1]> (x, w, b) }"""
    proto = bench.net(text, SHAPES, 13)
    (conv,) = proto.graph.node
    conv.op_type, conv.domain = "FusedConv", "com.microsoft"
    conv.input.append("x")
    conv.attribute.append(onnx.helper.make_attribute("activation", "Relu"))
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    compare(bench, proto, ["Conv", "Add", "Relu"])


def test_silu(bench, tmp_path):
    text = "g (float[N,5] x) => (float[N,5] y) { s = Sigmoid (x) y = Mul (x, s) }"
    proto = fused(bench, text, {}, 13, tmp_path)
    assert [n.op_type for n in proto.graph.node] == ["QuickGelu"]
    compare(bench, proto, ["Sigmoid", "Mul"])


@pytest.mark.parametrize("alpha", [None, 1.5])
def test_quick_gelu(bench, tmp_path, alpha):
    text = "g (float[N,5] x) => (float[N,5] y) { s = Sigmoid (x) y = Mul (x, s) }"
    proto = fused(bench, text, {}, 13, tmp_path)
    (node,) = proto.graph.node
    del node.attribute[:]
    if alpha is not None:
        node.attribute.append(onnx.helper.make_attribute("alpha", alpha))
    compare(bench, proto, ["Mul", "Sigmoid", "Mul"])


def compare(bench, proto, ops):
    model = from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    assert SplitFused()(model).modified
    assert sorted(bench.ops(model)) == sorted(ops)
    infer_shapes(model)
    after = to_proto(model)
    onnx.checker.check_model(after)
    for one, other in zip(run(proto, bench), run(after, bench), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert not SplitFused()(model).modified


def test_activation_that_is_not_known_stays(bench):
    proto = bench.net(
        "g (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Conv (x, w) }", {"w": (3, 3, 1, 1)}
    )
    (conv,) = proto.graph.node
    conv.op_type, conv.domain = "FusedConv", "com.microsoft"
    conv.attribute.append(onnx.helper.make_attribute("activation", "Softsign"))
    model = from_proto(proto)
    assert not SplitFused()(model).modified
