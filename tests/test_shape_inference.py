"""Shapes of all tensors: what ONNX's inference and our own arithmetic find."""

import resource
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from graphpass.batch import to_size
from graphpass.model import Model, from_proto, infer_shapes, to_proto
from graphpass.plan import make_plan
from graphpass.shape_values import shape_values

TEXT = """agraph (float[batch,3] x) => (float[batch,2] y) <float[3,2] w = {1,2,3,4,5,6}> {
    [first] a = MatMul (x, w)
    [second] y = Relu (a)
}"""


def parse(text=TEXT, domains=""):
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 17{domains}]> {text}')


@pytest.fixture
def little_memory():
    """At most a gigabyte of address space more than there is now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_every_tensor_gets_its_type():
    model = from_proto(parse())
    infer_shapes(model)
    tensor = model.graph.tensors()["a"]
    assert (tensor.shape, tensor.dtype) == (["batch", 2], np.float32)


def test_stale_shapes_are_forgotten():
    model = from_proto(parse())
    model.graph.tensors()["a"].shape = [99]
    infer_shapes(model)
    assert model.graph.tensors()["a"].shape == ["batch", 2]


def test_interface_is_left_alone():
    model = from_proto(parse())
    model.graph.outputs[0].shape = ["other", 2]
    infer_shapes(model)
    assert model.graph.outputs[0].shape == ["other", 2]


def test_large_weights_are_not_needed():
    proto = parse(TEXT.replace("<float[3,2] w = {1,2,3,4,5,6}>", "").replace("N,2", "N,999"))
    weight = np.ones((3, 999), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = from_proto(proto)
    infer_shapes(model)
    assert model.graph.tensors()["a"].shape == ["batch", 999]
    assert isinstance(model, Model)
    assert to_proto(model).graph.initializer[0].dims == [3, 999]


def test_vectors_over_the_batch_are_no_lists_of_sizes(little_memory):
    """A list as long as the number that stands for the batch would need gigabytes."""
    text = "g (float[batch] x) => (float[batch] y) <float t = {2}> { a = Mul (x, t) y = Relu (a) }"
    model = from_proto(parse(text))
    infer_shapes(model)
    assert model.graph.tensors()["a"].shape == ["batch"]


def test_known_sizes_keep_their_type():
    """Of converters that compute sizes in int32."""
    text = (
        "g (float[batch,3] x) => (float[M,3] y) <int64[1] at0 = {0}, int64[1] at1 = {1}> {"
        " s = Shape (x) i = Cast <to = 6> (s) a = Slice (i, at0, at1, at0)"
        " l = Cast <to = 7> (i) r = Reshape (x, l) y = Relu (r) }"
    )
    model = from_proto(parse(text))
    infer_shapes(model)
    assert model.graph.tensors()["a"].dtype == np.int32


def test_shapes_go_through_functions_of_the_dialect():
    text = TEXT.replace("[second] y = Relu (a)", "q = graphpass.QCFS (a, t, t) y = Neg (q)")
    text = text.replace("<float", "<float t = {2.0}, float")
    model = from_proto(parse(text, domains=', "graphpass": 1'))
    infer_shapes(model)
    assert model.graph.tensors()["q"].shape == ["batch", 2]


def test_failing_inference_leaves_the_graph_and_nothing_is_converted():
    text = "g (float[N,3] x) => (float[N,3] y) { a = Transpose <perm = [5]> (x) y = Relu (a) }"
    model = from_proto(parse(text))
    infer_shapes(model)
    assert [n.op for n in model.graph.nodes] == ["Transpose", "Relu"]
    assert make_plan(model, first_activation="spiking").refused


@pytest.mark.parametrize(("opset", "domain"), [(12, ""), (17, ""), (12, "com.microsoft")])
@pytest.mark.parametrize("other", [1, 2**40])
def test_operators_that_onnx_does_not_know_yet(opset, domain, other):
    """ONNX Runtime runs LayerNormalization in any opset."""
    text = """g (float[N,3] x, float[3] s) => (float[N,3] y) {
        a = LayerNormalization (x, s)
        y = Relu (a)
    }"""
    proto = parse(text, f', "com.microsoft": {other}')
    proto.opset_import[0].version, proto.graph.node[0].domain = opset, domain
    model = from_proto(proto)
    infer_shapes(model)
    assert model.graph.tensors()["a"].shape == ["N", 3]


@pytest.mark.parametrize(
    ("operator", "dtype"),
    [
        ("Scaler <offset = [1.0], scale = [2.0]>", np.float32),
        ('Normalizer <norm = "L2">', np.float32),
        ("Binarizer <threshold = 0.5>", np.float64),
        ("Imputer <replaced_value_float = 0.0>", np.float64),
    ],
)
def test_preprocessing_of_scikit_learn(operator, dtype):
    text = f"g (double[N,3] x) => (float[N,3] y) {{ a = ai.onnx.ml.{operator} (x) y = Relu (a) }}"
    model = from_proto(parse(text, ', "ai.onnx.ml": 1'))
    infer_shapes(model)
    tensor = model.graph.tensors()["a"]
    assert (tensor.shape, tensor.dtype) == (["N", 3], dtype)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [("s, s", ["N", 3]), ("s, ones", ["N", 3]), ("s, s, ones", ["N", 3]), ("s, twos", None)],
)
def test_larger_one_of_sizes(sizes, shape):
    """As of the broadcast in a MatMul of TensorFlow; the batch may be 1, which is below 2."""
    text = f"""g (float[N,3] x) => (float[A,B] y)
    <int64[2] ones = {{1, 1}}, int64[2] twos = {{2, 2}}> {{
        s = Shape (x) m = Max ({sizes}) y = Reshape (x, m)
    }}"""
    model = from_proto(parse(text))
    model.graph.outputs[0].shape = None
    infer_shapes(model)
    known = shape_values(model.graph).get("m")
    assert (known is None) == (shape is None)
    assert shape is None or [to_size(size, "N") for size in known] == shape
