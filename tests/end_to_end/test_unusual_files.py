"""Files as they are found: each converts and verifies, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnx.parser
import pytest

from graphpass import GraphpassError, convert, inspect, verify

NET = """<ir_version: 8, opset_import: ["": 13]> g (float[N,3,4,4] x) => (float[N,3,4,4] y) {
    a = Conv (x, w) r = Relu (a) b = Conv (r, w) s = Relu (b) y = Conv (s, w) }"""
WEIGHTS = {"w": (3, 3, 1, 1)}
DATA = [{"x": np.random.default_rng(2).normal(size=(4, 3, 4, 4)).astype(np.float32)}]


def build(text: str = NET, shapes: dict[str, tuple[int, ...]] = WEIGHTS) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(7)
    for name, shape in shapes.items():
        array = rng.normal(0, 0.7, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def converts(proto: onnx.ModelProto, folder: Path, data: Any = DATA, **options: Any) -> None:
    """In every form, equal to what the file says, at the batch size of the data and alone."""
    ann = folder / "net.onnx"
    ann.write_bytes(proto.SerializeToString())
    converts_file(ann, data, **options)


def converts_file(ann: Path, data: Any = DATA, **options: Any) -> None:
    for form in ("matmul", "counts"):
        snn = ann.parent / f"{form}.onnx"
        result = convert(ann, snn, steps=8, data=data, form=form, **options)
        assert any(verdict.status == "converted" for verdict in result.activations)
        found = verify(ann, snn, data)
        assert found.equal, found
        assert found.max_abs_diff < 1e-2
        written = onnx.load(str(snn))
        onnx.checker.check_model(written, full_check=True)


def refused(proto: onnx.ModelProto, folder: Path, reason: str, **options: Any) -> None:
    ann = folder / "net.onnx"
    ann.write_bytes(proto.SerializeToString())
    with pytest.raises(GraphpassError, match=reason) as caught:
        convert(ann, folder / "snn.onnx", steps=4, data=DATA, **options)
    assert str(caught.value).isprintable()
    assert [path.name for path in folder.iterdir()] == ["net.onnx"]


def test_initializers_that_are_inputs_too(tmp_path: Path) -> None:
    proto = build()
    proto.ir_version = 3
    proto.graph.input.append(oh.make_tensor_value_info("w", 1, [3, 3, 1, 1]))
    converts(proto, tmp_path)


@pytest.mark.parametrize("name", ["", "same", "a\x1b[31mb", "</script>"])
def test_names_of_nodes(tmp_path: Path, name: str) -> None:
    proto = build()
    for node in proto.graph.node:
        node.name = name
    converts(proto, tmp_path)


def test_name_that_two_tensors_have(tmp_path: Path) -> None:
    proto = build()
    proto.graph.node[2].output[0] = "a"
    proto.graph.node[3].input[0] = "a"
    refused(proto, tmp_path, "used as output names multiple times")


def test_nodes_and_inputs_that_nothing_needs(tmp_path: Path) -> None:
    proto = build()
    proto.graph.node.append(oh.make_node("Softmax", ["r"], ["unused"], axis=1))
    proto.graph.node.append(oh.make_node("NoSuchOperator", ["b"], ["unused2"], domain="nowhere"))
    proto.opset_import.append(oh.make_opsetid("nowhere", 1))
    converts(proto, tmp_path)


def test_functions_of_the_model(tmp_path: Path) -> None:
    proto = build(NET.replace("r = Relu (a) b = Conv (r, w)", "b = own.Block (a, w)"))
    proto.opset_import.append(oh.make_opsetid("own", 1))
    inner = [oh.make_node("Relu", ["p"], ["q"]), oh.make_node("Conv", ["q", "k"], ["z"])]
    imports = [oh.make_opsetid("", 13)]
    proto.functions.append(oh.make_function("own", "Block", ["p", "k"], ["z"], inner, imports))
    converts(proto, tmp_path)


def test_operator_of_another_domain_before_the_first_neuron(tmp_path: Path) -> None:
    proto = build(NET.replace("a = Conv (x, w)", "g = com.microsoft.Gelu (x) a = Conv (g, w)"))
    proto.opset_import.append(oh.make_opsetid("com.microsoft", 1))
    converts(proto, tmp_path)


def test_operator_of_another_domain_between_neurons(tmp_path: Path) -> None:
    text = NET.replace("b = Conv (r, w)", "g = com.microsoft.BiasGelu (r, v) b = Conv (g, w)")
    proto = build(text, {**WEIGHTS, "v": (4,)})
    proto.opset_import.append(oh.make_opsetid("com.microsoft", 1))
    # A bias along the last axis, where the convolutions have their channels on axis 1.
    reason = r"node 'g' has thresholds along \[3\].*--islands allow"
    refused(proto, tmp_path, reason, first_activation="spiking")
    converts(proto, tmp_path, first_activation="spiking", islands="allow")


def test_operator_that_nobody_knows(tmp_path: Path) -> None:
    proto = build(NET.replace("b = Conv (r, w)", "g = nowhere.Foo (r) b = Conv (g, w)"))
    proto.opset_import.append(oh.make_opsetid("nowhere", 1))
    refused(proto, tmp_path, "since that of Foo node 'g' is not known")
    refused(proto, tmp_path, "Foo node 'g' is not linear", first_activation="spiking")


def test_external_data(tmp_path: Path) -> None:
    onnx.save(
        build(),
        str(tmp_path / "net.onnx"),
        save_as_external_data=True,
        location="net.bin",
        size_threshold=0,
    )
    assert (tmp_path / "net.bin").is_file()
    converts_file(tmp_path / "net.onnx")


@pytest.mark.parametrize("rows", [1, 4])
def test_literal_batch_with_a_sum_over_it(tmp_path: Path, rows: int) -> None:
    """The mean over all axes would be another one at another batch size: it stays as it is."""
    text = NET.replace("N,", f"{rows},").replace(
        "y = Conv (s, w)", "c = Conv (s, w) m = ReduceMean <keepdims = 1> (c) y = Sub (c, m)"
    )
    data = [{"x": DATA[0]["x"][:rows]}]
    converts(build(text), tmp_path, data)
    found = inspect(tmp_path / "matmul.onnx")
    assert found.inputs["x"] == f"float32[{rows},3,4,4]"


@pytest.mark.parametrize(
    ("code", "interface"),
    [
        (onnx.TensorProto.FLOAT16, "float16"),
        (onnx.TensorProto.DOUBLE, "float64"),
        (onnx.TensorProto.BFLOAT16, "float32"),
    ],
)
def test_other_precisions(tmp_path: Path, code: int, interface: str) -> None:
    proto = build()
    proto.opset_import[0].version = 22  # the first with a Conv in bfloat16
    proto.ir_version = 10
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = code
    for weight in proto.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(code)
        array = onnx.numpy_helper.to_array(weight).astype(dtype)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    converts(proto, tmp_path, [{"x": DATA[0]["x"].astype(interface)}])
    assert inspect(tmp_path / "counts.onnx").outputs["y"].startswith(interface)


def test_several_inputs_and_outputs_with_a_state(tmp_path: Path) -> None:
    """A step of a recurrent network: the state comes in and goes out, batch on axis 1."""
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[N,5] x, float[1,N,6] state)
        => (float[N,2] y, float[1,N,6] next) <int64[1] at0 = {0}> {
        a = MatMul (x, u) r = Relu (a) b = MatMul (r, u2) q = Relu (b) t = Unsqueeze (q, at0)
        seq, next = GRU <hidden_size = 6> (t, wi, wr, "", "", state)
        h = Squeeze (next, at0) y = MatMul (h, v) }"""
    shapes = {"u": (5, 6), "u2": (6, 6), "wi": (1, 18, 6), "wr": (1, 18, 6), "v": (6, 2)}
    rng = np.random.default_rng(1)
    data = [
        {
            "x": rng.normal(size=(1, 5)).astype(np.float32),
            "state": rng.normal(size=(1, 1, 6)).astype(np.float32),
        }
        for _ in range(3)
    ]
    converts(build(text, shapes), tmp_path, data)


@pytest.mark.parametrize("place", ["stem", "tail", "between"])
def test_control_flow(tmp_path: Path, place: str) -> None:
    """A branch that captures what it reads, chosen by the data."""
    source, after = {"stem": ("x", "a"), "tail": ("s", "y"), "between": ("r", "b")}[place]
    branch = (
        "m = ReduceSum <keepdims = 0> (x) o = Less (m, limit)"
        f" {after}0 = If (o) <then_branch = t () => (float[N,3,4,4] p) {{ p = Neg ({source}) }},"
        f" else_branch = e () => (float[N,3,4,4] p) {{ p = Softmax <axis = 1> ({source}) }}>"
        f" {after} = Conv ({after}0, w)"
    )
    text = NET.replace(f"{after} = Conv ({source}, w)", branch)
    text = text.replace(" {\n", " <float limit = {0.1}> {\n", 1)
    proto = build(text)
    if place == "between":
        refused(proto, tmp_path, "has a body that reads spikes.*--islands allow")
        converts(proto, tmp_path, islands="allow")
    else:
        converts(proto, tmp_path)
