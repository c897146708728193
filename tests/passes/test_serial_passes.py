"""The passes that make the serial forms: what lies inside the step, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphpass import convert, verify
from graphpass_runtime.errors import ModelError, OptionError
from graphpass_runtime.metadata import FileRecord, State
from graphpass_runtime.session import Session

# A static convolution before the first neuron, and a weight that is read on both sides.
NETWORK = """g (float[N,1,4,4] x) => (float[N,2] y) {
    s = Conv <pads = [1,1,1,1]> (x, w1)
    t = Add(s, shared)
    a = Clip(t, zero, one)
    c = Conv <pads = [1,1,1,1]> (a, w2)
    d = Add(c, shared)
    b = Clip(d, zero, one)
    m = GlobalAveragePool(b)
    f = Flatten(m)
    y = Softmax(f)
}"""
WEIGHTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "w1": np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32),
    "w2": np.random.default_rng(1).normal(size=(2, 2, 3, 3)).astype(np.float32),
    "shared": np.full((1, 2, 1, 1), 0.25, np.float32),
}
Make = Callable[..., Path]


@pytest.fixture
def serial(write_model: Callable[..., Path], tmp_path: Path) -> Make:
    def make(
        form: str | None, text: str = NETWORK, weights: Any = None, *, opset: int = 17
    ) -> Path:
        ann = write_model(text, WEIGHTS if weights is None else weights, opset=opset)
        path = tmp_path / f"{form}.onnx"
        convert(
            *(ann, path),
            **{"steps": 4, "method": "qcfs", "serial": form, "calibrate": "none"},
            first_activation="spiking",
        )
        return path

    return make


def record_of(path: Path) -> FileRecord:
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    record = FileRecord.from_props(props)
    assert record is not None
    return record


def operators(graph: onnx.GraphProto) -> list[str]:
    return [node.op_type for node in graph.node]


def test_what_is_static_and_what_reads_the_mean_stay_outside_the_scan(serial: Make) -> None:
    proto = onnx.load(serial("scan"))
    onnx.checker.check_model(proto, full_check=True)
    outer = operators(proto.graph)
    assert outer.count("Scan") == 1
    assert {"Conv", "Add", "Div", "Softmax"} <= set(outer)
    scan = next(node for node in proto.graph.node if node.op_type == "Scan")
    body = next(a.g for a in scan.attribute if a.name == "body")
    inner = operators(body)
    assert inner.count("SerialIF") == 2
    assert inner.count("Conv") == 1
    assert not {"Softmax", "Div", "Scan"} & set(inner)
    # Names of the body are its own; large weights lie once, where they are read.
    own = {w.name for w in body.initializer} | {o for node in body.node for o in node.output}
    around = {w.name for w in proto.graph.initializer} | {
        o for node in proto.graph.node for o in node.output
    }
    assert not own & around
    large = [w for graph in (proto.graph, body) for w in graph.initializer if len(w.raw_data) > 100]
    assert len(large) == 1


def test_scan_is_the_default_and_looks_like_the_ann(serial: Make) -> None:
    proto = onnx.load(serial(None))
    assert [value.name for value in proto.graph.input] == ["x"]
    assert [value.name for value in proto.graph.output] == ["y"]
    record = record_of(serial(None))
    assert (record.form, record.steps, record.states) == ("scan", 4, ())


def test_step_says_what_its_states_are(serial: Make) -> None:
    path = serial("step")
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    record = record_of(path)
    assert (record.form, record.steps) == ("step", 4)
    assert {(s.shape, s.batch_axis) for s in record.states} == {
        ((1, 2, 4, 4), 0),  # potentials
        ((1, 2), 0),  # the sum that softmax reads the mean of
        ((1,), None),  # the number of steps
    }
    assert [v.name for v in proto.graph.input] == ["x", *(s.input for s in record.states)]
    assert [v.name for v in proto.graph.output] == ["y", *(s.output for s in record.states)]
    assert not {"Scan", "Loop", "If"} & set(operators(proto.graph))


def test_state_survives_metadata() -> None:
    state = State("a", "b", (3, 2, 5), 1)
    assert State.from_json(state.to_json()) == state
    assert state.shape_of(4) == (3, 8, 5)
    assert State("a", "b", (1,)).shape_of(4) == (1,)


def test_batch_axis_behind_another(serial: Make) -> None:
    text = """g (float[N,3,2] x) => (float[N,3,2] y) {
        a = Transpose <perm = [1,0,2]> (x)
        b = Clip(a, zero, one)
        c = MatMul(b, w)
        d = Clip(c, zero, one)
        y = Transpose <perm = [1,0,2]> (d)
    }"""
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(2, dtype=np.float32)}
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (3, 3, 2)).astype(np.float32)
    found = [Session(serial(form, text, weights)).run({"x": x})["y"] for form in ("scan", "step")]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], np.clip(np.floor(4 * x + 0.5), 0, 4) / 4)


def test_unknown_size_is_refused(serial: Make) -> None:
    text = NETWORK.replace("float[N,1,4,4] x", "float[N,1,height,width] x")
    for form in ("scan", "step"):
        with pytest.raises(ModelError, match=r"axes of unknown size.*fixed image size"):
            serial(form, text)


def test_scan_of_opset_8_is_refused_and_step_is_not(serial: Make) -> None:
    text = """g (float[N,2] x) => (float[N,2] y) {
        b = Clip <min = 0.0, max = 1.0> (x)
        y = MatMul(b, w)
    }"""
    weights = {"w": np.eye(2, dtype=np.float32)}
    with pytest.raises(ModelError, match="--serial step"):
        serial("scan", text, weights, opset=8)
    y = Session(serial("step", text, weights, opset=8)).run({"x": np.array([[0.5, 0]], np.float32)})
    np.testing.assert_allclose(y["y"], [[0.5, 0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "qcfs", "form": "counts"}, "--serial"),
        ({"serial": "scan"}, "--method qcfs"),
        ({"method": "qcfs", "serial": "loop"}, "scan or step"),
        ({"method": "serial"}, "parallel or qcfs"),
        ({"form": "scan"}, "unknown"),
    ],
)
def test_options_that_exclude_each_other(
    options: dict[str, str], message: str, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        convert(write_model(NETWORK, WEIGHTS), tmp_path / "snn.onnx", steps=4, **options)


@pytest.mark.parametrize("form", ["scan", "step"])
def test_verify_refuses_serial_neurons(form: str, serial: Make, tmp_path: Path) -> None:
    serial(form)
    convert(
        *(tmp_path / "ann.onnx", tmp_path / "counts.onnx"),
        **{"steps": 4, "form": "counts", "calibrate": "none"},
        first_activation="spiking",
    )
    data = [{"x": np.zeros((1, 1, 4, 4), np.float32)}]
    for pair in (("counts", form), (form, "counts")):
        with pytest.raises(ModelError, match=r"not sorted.*evaluate"):
            verify(*(tmp_path / f"{name}.onnx" for name in pair), data)


def test_neurons_behind_functions_are_refused(write_model, tmp_path):
    k = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    ann = write_model(
        "g (float[N,3,4,4] x) => (float[N,3,4,4] y)"
        " { a = Conv (x, k) b = Tanh (a) c = Conv (b, k) d = Tanh (c) y = Conv (d, k) }",
        {"k": k},
    )
    data = [{"x": np.ones((2, 3, 4, 4), np.float32)}]
    with pytest.raises(ModelError, match=r"cannot stand for 'd', which is no rectifier.*--keep"):
        convert(ann, tmp_path / "snn.onnx", steps=4, data=data, method="qcfs")
    assert not (tmp_path / "snn.onnx").exists()
