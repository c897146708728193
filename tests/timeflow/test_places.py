"""Where operators that are not linear put the batch, against numbers.

The type of y names an axis; ONNX Runtime is asked whether samples lie apart there: all
samples at once must give what each gives alone, joined along that axis.
"""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass.model import from_proto, infer_shapes
from graphpass.timeflow import Refusal, TimeType, infer
from graphpass.timeflow.infer import where_batch_goes
from graphpass.timeflow.view import View

W = (
    "float[4] four = {1, 2, 3, 4}, float[3] three = {1, 2, 3}, float low = {-0.5},"
    " float high = {0.5}, float[1,4,2] wi = {1,2,3,4,5,6,7,8},"
    " int64[1] one = {1}, int64[1] at0 = {0}, int64[1] at2 = {2},"
    " float[1,4,1] wr = {1,2,3,4}"
)
X = "N,3,4"
# operator, where the batch is in y, shape of x, opset
APART = [
    ("Sigmoid (x)", 0, X, 17),
    ("Clip (x, low, high)", 0, X, 17),
    ('Clip (x, "", high)', 0, X, 13),
    ("Max (x, four)", 0, X, 17),
    ("Pow (x, x)", 0, X, 17),
    ("PRelu (x, four)", 0, X, 17),
    ("Softmax <axis = -1> (x)", 0, X, 17),
    ("Softmax <axis = 1> (x)", 0, X, 11),
    ("Softmax <axis = 0> (x)", 1, "3,N", 17),
    ("LogSoftmax <axis = 2> (x)", 1, "3,N,4", 17),
    ("LayerNormalization (x, four)", 0, X, 17),
    ("InstanceNormalization (x, three, three)", 0, X, 17),
    ("LRN <size = 3> (x)", 0, "N,3,4,2", 17),
    ("LpPool <kernel_shape = [2]> (x)", 0, X, 17),
    ("LpNormalization <axis = 1> (x)", 0, X, 17),
    ("ReduceMax <axes = [2], keepdims = 0> (x)", 1, "3,N,4", 17),
    ("ReduceMax <axes = [0], keepdims = 0> (x)", 0, "3,N,4", 17),
    ("ReduceL2 (x, at2)", 0, X, 18),
]
MIXED = [
    ("Softmax <axis = 0> (x)", X, 17),
    ("Softmax <axis = 1> (x)", "3,N,4", 11),
    ("LayerNormalization <axis = 1> (x, four)", "3,N,4", 17),
    ("ReduceMax (x)", X, 17),
    ("ReduceMin <axes = [0]> (x)", X, 17),
    ("ArgMax <axis = 0> (x)", X, 17),
    ("TopK <axis = 0> (x, one)", X, 17),
    ("InstanceNormalization (x, three, three)", "2,3,N", 17),
]


def parse(op, shape, opset):
    outputs = "y, i" if op.startswith("TopK") else "y"
    kind = "int64" if op.startswith("Arg") else "float"
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[{shape}] x) => ({kind} y) <{W}>'
        f" {{ {outputs} = {op} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def verdict(proto, shape):
    model = from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    infer_shapes(model)
    (node,) = model.graph.nodes
    flow = infer(model, ())
    axis = shape.split(",").index("N")
    types = tuple(
        None if t.is_empty() else flow.types.get(t.name, TimeType("static")) for t in node.inputs
    )
    of_x = TimeType("static", axis)
    types = tuple(of_x if t.name == "x" else k for t, k in zip(node.inputs, types, strict=True))
    return where_batch_goes(View(node, types, model.opset)), axis


@pytest.mark.parametrize(("op", "place", "shape", "opset"), APART)
def test_samples_lie_apart(op, place, shape, opset):
    proto = parse(op, shape, opset)
    found, axis = verdict(proto, shape)
    assert isinstance(found, TimeType), found
    assert found.batch_axis == place
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    sizes = [5 if size == "N" else int(size) for size in shape.split(",")]
    x = np.random.default_rng(3).uniform(0.1, 2, sizes).astype(np.float32)
    together = session.run(["y"], {"x": x})[0]
    alone = [session.run(["y"], {"x": part})[0] for part in np.split(x, 5, axis)]
    np.testing.assert_allclose(together, np.concatenate(alone, place), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("op", "shape", "opset"), MIXED)
def test_samples_are_mixed(op, shape, opset):
    found, _ = verdict(parse(op, shape, opset), shape)
    assert isinstance(found, Refusal), found


@pytest.mark.parametrize(
    ("op", "shape", "place"),
    [
        ("MatMulInteger (x, w)", "N,3,4", (0, 2)),
        ("MatMulInteger (w, x)", "N,4,3", (0, 1)),
        ("ConvInteger (x, k)", "N,4,5", (0, 1)),
        ("ConvInteger (x, k)", "4,4,N", None),
    ],
)
def test_layers_on_integers(op, shape, place):
    weights = "uint8[2,4] w = {1,2,3,4,5,6,7,8}, uint8[2,4,1] k = {1,2,3,4,5,6,7,8}"
    weights = weights.replace("[2,4] w", "[4,2] w") if "x, w" in op else weights
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (uint8[{shape}] x) => (int32 y)'
        f" <{weights}> {{ y = {op} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    found, _ = verdict(proto, shape)
    assert isinstance(found, Refusal) == (place is None)
    assert place is None or (found.batch_axis, found.channel_axis) == place


def test_recurrent_layers():
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[5,N,2] x) => (float y)
        <{W}> {{ y = LSTM <hidden_size = 1> (x, wi, wr) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    found, _ = verdict(proto, "5,N,2")
    assert (found.batch_axis, found.channel_axis) == (2, 3)
