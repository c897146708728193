"""BatchNormalization goes into the weights before it; its statistics are recorded first."""

import numpy as np
import onnx
import pytest

from graphpass.model import to_proto
from graphpass.passes.fold_batch_norm import FoldBatchNorm
from graphpass_runtime.errors import ModelError

NORM = (
    "float[4] g = {0.5, -1.5, 2.0, 0.0}, float[4] b = {0.1, 0.2, -0.3, 0.4},"
    " float[4] m = {0.3, -0.2, 0.1, 0.6}, float[4] v = {0.5, 1.5, 2.0, 0.7}"
)
BN = "BatchNormalization <epsilon = 0.01> ({}, g, b, m, v)"


def array(name, *shape):
    rng = np.random.default_rng(len(name) + sum(shape))
    numbers = ", ".join(f"{v:.3f}" for v in rng.normal(size=int(np.prod(shape))))
    return f"float{list(shape)} {name} = {{{numbers}}}"


def net(x, y, weights, body):
    return f"agraph (float[{x}] x) => (float[{y}] y) <{weights}, {NORM}> {{ {body} }}"


def conv(call, weight=(4, 2, 3, 3), bias=True, out="N,4,3,3", attrs=""):
    weights = array("w", *weight) + (", " + array("c", 4) if bias else "")
    inputs = "x, w, c" if bias else "x, w"
    return net("N,2,5,5", out, weights, f"a = {call}{attrs} ({inputs}) y = {BN.format('a')}")


@pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 14, 17, 18, 26])
@pytest.mark.parametrize("bias", [True, False])
def test_after_conv(bench, opset, bias):
    model = bench.changed(FoldBatchNorm, conv("Conv", bias=bias), opset)
    assert bench.ops(model) == ["Conv"]


def test_after_grouped_conv(bench):
    text = conv("Conv", weight=(4, 1, 3, 3), attrs=" <group = 2>")
    assert bench.ops(bench.changed(FoldBatchNorm, text)) == ["Conv"]


@pytest.mark.parametrize(("group", "weight"), [(1, (2, 4, 3, 3)), (2, (2, 2, 3, 3))])
@pytest.mark.parametrize("bias", [True, False])
def test_after_conv_transpose(bench, group, weight, bias):
    text = conv(
        "ConvTranspose", weight=weight, bias=bias, out="N,4,7,7", attrs=f" <group = {group}>"
    )
    assert bench.ops(bench.changed(FoldBatchNorm, text)) == ["ConvTranspose"]


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize(("bias", "beta"), [(None, 1.0), ("4", 1.0), ("4", 0.5), ("1", 2.0)])
def test_after_gemm(bench, trans, bias, beta):
    shape = (4, 3) if trans else (3, 4)
    weights = array("w", *shape) + (f", {array('c', int(bias))}" if bias else "")
    call = f"Gemm <transB = {trans}, alpha = 0.7, beta = {beta}> (x, w{', c' if bias else ''})"
    text = net("N,3", "N,4", weights, f"a = {call} y = {BN.format('a')}")
    assert bench.ops(bench.changed(FoldBatchNorm, text)) == ["Gemm"]


def test_two_in_a_row(bench):
    text = net(
        "N,2,5,5",
        "N,4,3,3",
        array("w", 4, 2, 3, 3),
        f"a = Conv (x, w) d = {BN.format('a')} y = {BN.format('d')}",
    )
    assert bench.ops(bench.changed(FoldBatchNorm, text)) == ["Conv"]


def test_weights_that_another_layer_reads_are_left_alone(bench):
    text = net(
        "N,2,5,5",
        "N,4,3,3",
        array("w", 4, 2, 3, 3),
        f"a = Conv (x, w) d = Conv (x, w) e = {BN.format('a')} y = Add (d, e)",
    )
    model = bench.changed(FoldBatchNorm, text)
    assert sorted(bench.ops(model)) == ["Add", "Conv", "Conv"]
    assert "w" in {weight.name for weight in to_proto(model).graph.initializer}


def test_statistics_are_recorded_under_the_output(bench):
    model = bench.changed(FoldBatchNorm, conv("Conv"))
    assert model.record.batch_norms == {
        "y": {"mean": [0.1, 0.2, -0.3, 0.4], "std": [0.5, 1.5, 2.0, 0.0]}
    }


def recorded_only(bench, text, opset=17):
    """The normalisation stays, and is recorded."""
    model = bench.changed(FoldBatchNorm, text, opset)
    assert "BatchNormalization" in bench.ops(model)
    assert list(model.record.batch_norms)
    assert not {"y/weight", "y/bias"} & {w.name for w in to_proto(model).graph.initializer}
    return model


def test_before_a_layer_it_stays(bench):
    recorded_only(bench, net("N,4,5,5", "N,4,5,5", array("w", 1), f"y = {BN.format('x')}"))


def test_layer_that_others_read_too_stays(bench):
    text = net(
        "N,2,5,5",
        "N,4,3,3",
        array("w", 4, 2, 3, 3),
        f"a = Conv (x, w) e = {BN.format('a')} y = Add (a, e)",
    )
    recorded_only(bench, text)


def test_layer_whose_result_is_an_output_stays(bench):
    text = conv("Conv").replace("y) <", "y, float[N,4,3,3] a) <")
    recorded_only(bench, text)


def test_layer_with_weights_of_an_input_stays(bench):
    text = conv("Conv", bias=False).replace("x) =>", "x, float[4,2,3,3] k) =>")
    recorded_only(bench, text.replace("(x, w)", "(x, k)"))


def test_layer_whose_weight_is_one_number_stays(bench):
    """Not ONNX, but a quantiser's zero point may stand there in a damaged file."""
    model = bench.model(conv("Conv"))
    model.graph.nodes[0].inputs[1].values = np.float32(1)
    assert FoldBatchNorm().apply(model) == 1
    assert [node.op for node in model.graph.nodes] == ["Conv", "BatchNormalization"]


def test_bias_of_a_gemm_in_a_row(bench):
    weights = f"{array('w', 3, 4)}, {array('c', 1, 4)}"
    text = net("N,3", "N,4", weights, f"a = Gemm (x, w, c) y = {BN.format('a')}")
    assert bench.ops(bench.changed(FoldBatchNorm, text)) == ["Gemm"]


@pytest.mark.parametrize("rows", [(3, 4), (3, 1)])
def test_bias_of_a_gemm_for_every_row_stays(bench, rows):
    weights = f"{array('w', 3, 4)}, {array('c', *rows)}"
    text = net("3,3", "3,4", weights, f"a = Gemm (x, w, c) y = {BN.format('a')}")
    recorded_only(bench, text)


def test_statistics_that_are_inputs_stay(bench):
    text = conv("Conv").replace("x) =>", "x, float[4] k) =>").replace("g, b, m, v", "k, b, m, v")
    model = bench.unchanged(FoldBatchNorm, text)
    assert model.record.batch_norms == {}


def test_training_mode_stays(bench):
    text = conv("Conv").replace("y = Batch", "y, p, q = Batch")
    text = text.replace("epsilon", "training_mode = 1, epsilon")
    bench.unchanged(FoldBatchNorm, text)


def test_statistics_of_every_position_stay(bench):
    # Opset 8 with spatial = 0; ONNX Runtime does not run it, so it must only not be touched.
    text = (
        f"agraph (float[N,2,3,3] x) => (float[N,4,1,1] y) <{array('w', 4, 2, 3, 3)},"
        " float[4,1,1] g = {1,2,3,4}, float[4,1,1] b = {1,2,3,4}, float[4,1,1] m = {1,2,3,4},"
        " float[4,1,1] v = {1,2,3,4}>"
        " { a = Conv (x, w) y = BatchNormalization <spatial = 0> (a, g, b, m, v) }"
    )
    bench.unchanged(FoldBatchNorm, text, 8)


def test_without_a_record_nothing_is_counted_twice(bench):
    model = bench.model(net("N,4,5,5", "N,4,5,5", array("w", 1), f"y = {BN.format('x')}"))
    model.record = None
    assert not FoldBatchNorm()(model).modified


def test_half_precision_weights_stay_half(bench):
    model = bench.changed(FoldBatchNorm, bench.half(conv("Conv")), atol=3e-2)
    kinds = {w.data_type for w in to_proto(model).graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_nothing_to_fold(bench):
    bench.unchanged(
        FoldBatchNorm,
        f"agraph (float[N,2,5,5] x) => (float[N,4,3,3] y) <{array('w', 4, 2, 3, 3)}>"
        " { y = Conv (x, w) }",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("v", -1.0), ("v", -0.01), ("g", float("inf")), ("b", float("nan")), ("m", float("-inf"))],
)
def test_parameters_that_give_no_number_are_refused(bench, name, value):
    proto = bench.proto(conv("Conv"))
    (weight,) = [w for w in proto.graph.initializer if w.name == name]
    array = onnx.numpy_helper.to_array(weight).copy()
    array[1] = value
    weight.CopyFrom(onnx.numpy_helper.from_array(array, name))
    with pytest.raises(ModelError, match=r"BatchNormalization .* not finite, or a variance"):
        FoldBatchNorm()(bench.model(proto))
