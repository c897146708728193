"""Torch functions of ONNX operators against ONNX's own tests, and against ONNX Runtime."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")

from graphpass.calibration.finetune.network import Network  # noqa: E402 needs torch
from graphpass.calibration.finetune.operators import find_operator  # noqa: E402
from graphpass.model import from_proto  # noqa: E402
from graphpass_runtime.errors import ModelError  # noqa: E402

# What the interpreter says of those of ONNX's tests that it refuses.
REFUSALS = (
    "is dilated",
    "gives its output size instead of its padding",
    "has a further output",
    "normalises in training mode",
    "pads in mode",
    "casts to a type",
)


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model in torch."""
    network = Network(from_proto(onnx.ModelProto.FromString(proto.SerializeToString())))
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}
        found, _ = network(tensors, {})
    return [value.numpy() for value in found.values()]


def run_or_refusal(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | str:
    try:
        return run(proto, feeds)
    except ModelError as error:
        return str(error)


@dataclass(frozen=True)
class Case:
    """`y = op` on x, as ONNX text, with the shape of x and the values of constants."""

    op: str
    shape: tuple[int, ...]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17

    def __str__(self) -> str:
        return f"{self.op}, {self.opset}".replace(" ", "")


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


CASES = [
    Case("Conv <pads = [1, 0, 0, 2], strides = [2, 1]> (x, w, b)", (2, 4, 7, 6),
         {"w": floats(6, 4, 3, 2), "b": floats(6)}),
    Case("Conv <group = 2, dilations = [2], pads = [2, 2]> (x, w)", (2, 4, 9),
         {"w": floats(6, 2, 3)}),
    Case('Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)', (1, 2, 7, 8),
         {"w": floats(3, 2, 3, 4)}),
    Case("Conv (x, w)", (1, 2, 4, 5, 6), {"w": floats(3, 2, 2, 2, 2)}),
    Case("ConvTranspose <strides = [2, 3], pads = [1, 0, 0, 1], output_padding = [1, 2]> (x, w, b)",
         (2, 4, 5, 4), {"w": floats(4, 3, 3, 3), "b": floats(3)}),
    Case("ConvTranspose <group = 2, strides = [2]> (x, w)", (2, 4, 5), {"w": floats(4, 3, 3)}),
    Case("Gemm <alpha = 0.5, beta = 2.0, transA = 1> (x, w, b)", (4, 3),
         {"w": floats(4, 5), "b": floats(5)}),
    Case("Gemm <transB = 1> (x, w)", (3, 4), {"w": floats(5, 4)}),
    Case("MatMul (x, w)", (2, 3, 4), {"w": floats(4, 5)}),
    Case("BatchNormalization (x, s, b, m, v)", (2, 3, 4),
         {"s": floats(3), "b": floats(3), "m": floats(3), "v": np.abs(floats(3)) + 0.1}),
    Case("MaxPool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1> (x)", (2, 3, 8, 7)),
    Case("MaxPool <kernel_shape = [2], dilations = [2], pads = [1, 0]> (x)", (2, 3, 8)),
    Case("AveragePool <kernel_shape = [3, 3], pads = [1, 0, 1, 2]> (x)", (2, 3, 6, 7)),
    Case("AveragePool <kernel_shape = [3], strides = [2], pads = [1, 1], ceil_mode = 1,"
         " count_include_pad = 1> (x)", (2, 3, 8), opset=19),
    Case("AveragePool <kernel_shape = [3], strides = [2], pads = [1, 1], ceil_mode = 1> (x)",
         (2, 3, 8), opset=19),
    Case("ReduceMean <axes = [2, 3], keepdims = 0> (x)", (2, 3, 4, 5)),
    Case("ReduceSum (x, axes)", (2, 3, 4, 5), {"axes": ints(-1)}),
    Case("ReduceMean <keepdims = 0> (x)", (2, 3)),
    Case("Slice (x, starts, ends, axes, steps)", (2, 9, 8),
         {"starts": ints(-1, 1), "ends": ints(-100, 1000), "axes": ints(1, 2),
          "steps": ints(-2, 3)}),
    Case("Slice <starts = [1], ends = [-1], axes = [2]> (x)", (2, 3, 8), opset=9),
    Case("Pad (x, pads, value)", (2, 3, 4),
         {"pads": ints(0, 1, 2, 0, 3, 1), "value": np.array(0.5, np.float32)}),
    Case("Pad <pads = [0, 1, 2, 3], value = 2.0> (x)", (3, 4), opset=9),
    Case("Pad (x, pads)", (2, 5, 4), {"pads": ints(0, -1, 1, 0, -2, 0)}),
    Case("Reshape (x, shape)", (2, 3, 4), {"shape": ints(0, -1)}),
    Case("Flatten <axis = 2> (x)", (2, 3, 4, 5)),
    Case("Flatten <axis = 0> (x)", (2, 3)),
    Case("Transpose <perm = [0, 2, 1]> (x)", (2, 3, 4)),
    Case("Transpose (x)", (2, 3, 4)),
    Case("Squeeze (x, axes)", (2, 1, 3, 1), {"axes": ints(-1)}),
    Case("Unsqueeze (x, axes)", (2, 3), {"axes": ints(-1, 0)}),
    Case("Unsqueeze <axes = [1, 3]> (x)", (2, 3), opset=9),
    Case("Concat <axis = -1> (x, w, x)", (2, 3), {"w": floats(2, 4)}),
    Case("Gather <axis = 1> (x, index)", (2, 5, 3), {"index": ints(4, -2, 0, 0).reshape(2, 2)}),
    Case("Softmax <axis = 1> (x)", (2, 3, 4), opset=11),
    Case("Softmax <axis = 1> (x)", (2, 3, 4), opset=13),
    Case("LogSoftmax (x)", (2, 3, 4)),
    Case("Clip (x, low)", (2, 3), {"low": np.array(-0.5, np.float32)}),
    Case("Clip <min = -0.5, max = 0.25> (x)", (2, 3), opset=9),
    Case("Sum (x, w, x)", (2, 3), {"w": floats(3)}),
    Case("Mean (x, w, x)", (2, 3), {"w": floats(3)}),
    Case("Where (mask, x, w)", (2, 3), {"mask": np.array([True, False, True]), "w": floats(3)}),
    Case("Tile (x, repeats)", (2, 3), {"repeats": ints(1, 3)}),
    Case("DepthToSpace <blocksize = 2> (x)", (2, 8, 3, 4)),
    Case('DepthToSpace <blocksize = 2, mode = "CRD"> (x)', (2, 8, 3, 4)),
    Case("SpaceToDepth <blocksize = 2> (x)", (2, 3, 4, 6)),
    Case("Min (x, w)", (2, 3), {"w": floats(2, 1)}),
    Case("Div (x, w)", (2, 3), {"w": floats(3)}),
    Case("Expand (x, shape)", (3, 1), {"shape": ints(2, 1, 4)}),
    Case("LeakyRelu <alpha = 0.3> (x)", (2, 3)),
    Case("HardSigmoid <alpha = 0.3> (x)", (2, 3)),
    Case("Dropout (x)", (2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator_agrees_with_onnx_runtime(case: Case):
    dims = ",".join(map(str, case.shape))
    ir_version = 8 if case.opset <= 17 else 10
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {case.opset}]>'
        f" g (float[{dims}] x) => (float y) {{ y = {case.op} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, array in case.weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    x = np.random.default_rng(7).normal(size=case.shape).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    (found,) = run(proto, {"x": x})
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_split_gives_all_its_parts():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2, 5] x) =>'
        " (float[2, 3] b, float[2, 2] a) <int64[2] sizes = {2, 3}>"
        " { a, b = Split <axis = 1> (x, sizes) }"
    )
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    second, first = run(proto, {"x": x})
    assert (first == x[:, :2]).all()
    assert (second == x[:, 2:]).all()


def test_onnx_node_tests(shared_data: Path):
    """Every one of ONNX's own tests whose operator is known, outputs as they come with it."""
    judged, refused = 0, []
    with tarfile.open(shared_data / "onnx_node_tests.tar.gz") as archive:
        contents = {
            member.name.removeprefix("./"): archive.extractfile(member).read()
            for member in archive
            if member.isfile()
        }
    for name in sorted(n for n in contents if n.endswith("model.onnx")):
        proto = onnx.load(io.BytesIO(contents[name]))
        model = from_proto(onnx.ModelProto.FromString(contents[name]))
        if not all(find_operator(node) for node in model.graph.nodes):
            continue
        folder = f"{Path(name).parent.as_posix()}/test_data_set_0"
        feeds = {
            value.name: _array(contents[f"{folder}/input_{index}.pb"])
            for index, value in enumerate(proto.graph.input)
            if value.name
        }
        found = run_or_refusal(proto, feeds)
        if isinstance(found, str):
            assert any(reason in found for reason in REFUSALS), f"{name}: {found}"
            refused.append(name)
            continue
        for index, array in enumerate(found):
            expected = _array(contents[f"{folder}/output_{index}.pb"])
            assert array.shape == expected.shape, name
            # The tolerance of ONNX's own runner: some expected values have four digits.
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-6, err_msg=name)
        judged += 1
    assert judged > 100
    assert len(refused) < 20, refused


def _array(content: bytes) -> np.ndarray:
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))
