"""What ran where, as the profile says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from graphpass.cli import main
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.ort_errors import load_error
from graphpass_runtime.placement import PlacedNode, Placement, read_profile
from graphpass_runtime.session import Session

Build = Callable[..., bytes]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
NET = (
    "g (float[N,3] x) => (float[N,3] y) "
    "{ a = Sigmoid(x) b = Tanh(a) c = Sigmoid(b) y = Softmax <axis = 1> (c) }"
)


def _event(name: str, op: str, provider: str, ts: int, dur: int, index: str = "0") -> dict:
    args = {"op_name": op, "provider": provider, "node_index": index}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def test_counts_operators_on_the_cpu(build: Build) -> None:
    placement = Session(build(NET), provider="cpu").placement()
    assert placement.operators() == {CPU: {"Sigmoid": 2, "Tanh": 1, "Softmax": 1}}
    assert placement.to_json() == placement.operators()
    assert len(placement.nodes) == 4
    assert all(node.runs == 1 and node.microseconds >= 0 for node in placement.nodes)
    assert placement.microseconds()[CPU] == sum(n.microseconds for n in placement.nodes)
    json.dumps(placement.to_json())


def test_leaves_no_file_behind(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    Session(build(NET), provider="cpu").placement()
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_free_axes_need_data(build: Build) -> None:
    session = Session(build("g (float[N,M] x) => (float[N,M] y) { y = Tanh(x) }"), provider="cpu")
    with pytest.raises(DataError, match=r"'x' is float32\[N,M\], of no fixed size; feed data"):
        session.placement()
    assert session.placement({"x": np.ones((2, 3), np.float32)}).operators() == {CPU: {"Tanh": 1}}


def test_failure_while_running_is_one_line(build: Build) -> None:
    session = Session(build("g (float[N,3] x, float[N,M] z) => (float[N,3] y) { y = Add(x, z) }"))
    with pytest.raises(ModelError, match="fails while running it"):
        session.placement({"x": np.ones((2, 3), np.float32), "z": np.ones((2, 2), np.float32)})


def test_reads_the_last_run_only() -> None:
    run = {"cat": "Session", "name": "model_run", "dur": 50, "args": {}}
    events = [
        {"cat": "Session", "name": "session_initialization", "ts": 1, "dur": 9},
        _event("conv", "Conv", CUDA, 11, 1000),
        run | {"ts": 10},
        _event("conv", "Conv", CUDA, 101, 5, "0"),
        _event("", "MemcpyToHost", CUDA, 102, 2, "1"),
        _event("loop", "Add", CPU, 103, 3, "2"),
        _event("loop", "Add", CPU, 104, 4, "2"),
        {"cat": "Node", "name": "conv_fence_before", "ts": 101, "dur": 1, "args": {}},
        run | {"ts": 100},
    ]
    nodes = read_profile(events)
    assert nodes == (
        PlacedNode("conv", "Conv", CUDA, 5),
        PlacedNode("", "MemcpyToHost", CUDA, 2),
        PlacedNode("loop", "Add", CPU, 7, runs=2),
    )
    placement = Placement(nodes)
    assert placement.operators() == {CUDA: {"Conv": 1, "MemcpyToHost": 1}, CPU: {"Add": 1}}
    assert placement.microseconds() == {CUDA: 7, CPU: 7}


def test_graph_that_cannot_be_captured_names_the_remedy() -> None:
    error = RuntimeError("This session cannot use the graph capture feature as requested by user")
    assert "placement() shows the nodes" in str(load_error(error, where="net.onnx"))


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_evaluate_shows_it_on_request(build: Build, tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(build(NET))
    np.savez(tmp_path / "data.npz", x=np.ones((4, 3), np.float32))
    arguments = ["evaluate", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "data.npz")]
    plain = CliRunner().invoke(main, [*arguments, *form], catch_exceptions=False).output
    output = CliRunner().invoke(main, [*arguments, "--placement", *form]).output
    if form:
        assert "placement" not in json.loads(plain)
        assert json.loads(output)["placement"] == {CPU: {"Sigmoid": 2, "Tanh": 1, "Softmax": 1}}
    else:
        assert "2 Sigmoid" not in plain
        assert "2 Sigmoid, 1 Tanh, 1 Softmax" in output
