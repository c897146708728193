"""Files that cannot be run, external data, and CUDA that is not there."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from graphpass_runtime import loading
from graphpass_runtime.errors import (
    GraphpassError,
    ModelError,
    OptionError,
    ProviderError,
)
from graphpass_runtime.metadata import FileRecord, Stage
from graphpass_runtime.providers import CPU, CUDA
from graphpass_runtime.session import Session

Build = Callable[..., bytes]

SCALE = "g (float[N,3] x) => (float[N,3] y) <float two = {2}> { z = Mul(x, two) y = Relu(z) }"


def _external(folder: Path) -> Path:
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x, float[3,3] w) => (float[N,3] y) '
        "{ z = MatMul(x, w) y = Relu(z) }"
    )
    model = onnx.parser.parse_model(text)
    del model.graph.input[1]
    weights = onnx.numpy_helper.from_array(2 * np.eye(3, dtype=np.float32), "w")
    model.graph.initializer.append(weights)
    path = folder / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="net.bin")
    return path


def test_external_data_is_found_with_extra_outputs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _external(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    relative = path.relative_to(tmp_path.parent)
    x = np.array([[-1, 0, 1]], np.float32)
    for given in (path, str(relative)):
        results = Session(given, extra_outputs=["z"]).run({"x": x})
        np.testing.assert_array_equal(results["z"], 2 * x)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.bin", "net.onnx"]


@pytest.mark.parametrize("content", [None, b"1234"])
def test_missing_or_short_external_data_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = _external(tmp_path)
    (tmp_path / "net.bin").unlink()
    if content is not None:
        (tmp_path / "net.bin").write_bytes(content)
    for extra in ([], ["z"]):
        with pytest.raises(ModelError, match="external data is missing or damaged") as caught:
            Session(path, extra_outputs=extra)
        assert str(caught.value).count(str(tmp_path)) == 1


def test_files_that_are_no_model_are_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such file"):
        Session(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        Session(tmp_path)
    whole = build(SCALE)
    for content in (b"", b"hello world", whole[: len(whole) // 2]):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        for model in (path, content):
            with pytest.raises(ModelError, match="not an ONNX model, or cut short"):
                Session(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[N] x) => (float[N] y) { y = BitwiseNot(x) }", "operator.*BitwiseNot"),
        ("g (float[N] x) => (float[N] y) { y = Relu(q) }", "refuses the model"),
        ("g (bfloat16[N] x) => (float[N] y) { y = Cast<to = 1>(x) }", "'x' is a tensor.bfloat16"),
        ("g (seq(float[N]) x) => (float[N] y) { y = ConcatFromSequence<axis = 0>(x) }", "'x' is a"),
    ],
)
def test_models_that_cannot_run_are_refused(build: Build, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Session(build(text))
    assert "onnxruntime_src" not in str(caught.value)
    assert ";" in str(caught.value), "no remedy"


def test_models_of_the_future_are_refused(build: Build) -> None:
    model = onnx.load_from_string(build(SCALE))
    model.ir_version = 60
    with pytest.raises(ModelError, match=r"newer than the installed ONNX Runtime.*version: 60"):
        Session(model.SerializeToString())


def test_damaged_bytes_never_escape_as_other_errors(build: Build) -> None:
    whole = build(SCALE, FileRecord(Stage.SPIKING, steps=4))
    rng = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(3):
            content[rng.integers(len(content))] = rng.integers(256)
        with contextlib.suppress(GraphpassError):
            Session(bytes(content), threads=1)


def test_senseless_arguments_are_refused(build: Build) -> None:
    with pytest.raises(OptionError, match="threads is 0"):
        Session(build(SCALE), threads=0)
    with pytest.raises(OptionError, match="memory limit"):
        Session(build(SCALE), memory_limit=0)


# A CUDA build on a machine without a GPU


def _pretend_cuda(patch: pytest.MonkeyPatch, *, raises: bool) -> None:
    real = importlib.import_module("onnxruntime")

    def create(source: Any, options: Any, providers: list[Any], **rest: Any) -> Any:
        if raises and providers[0][0] == CUDA:
            raise RuntimeError("CUDA failure 35")
        return real.InferenceSession(source, options, providers=[CPU], **rest)

    fake = SimpleNamespace(
        get_available_providers=lambda: [CUDA, CPU],
        SessionOptions=real.SessionOptions,
        InferenceSession=create,
    )
    patch.setattr(loading, "import_onnxruntime", lambda: fake)
    patch.setattr("graphpass_runtime.providers.import_onnxruntime", lambda: fake)


@pytest.mark.parametrize(("raises", "reason"), [(True, "failure 35"), (False, "fell back")])
def test_cuda_that_does_not_start_is_an_error_and_auto_takes_the_cpu(
    build: Build, monkeypatch: pytest.MonkeyPatch, raises: bool, reason: str
) -> None:
    _pretend_cuda(monkeypatch, raises=raises)
    with pytest.raises(ProviderError, match=reason):
        Session(build(SCALE), provider="cuda")
    assert Session(build(SCALE), provider="auto").provider == "cpu"


@pytest.mark.parametrize("saturates", [False, True])
def test_processors_that_saturate_get_the_wider_kernel(
    build: Build, monkeypatch: pytest.MonkeyPatch, saturates: bool
) -> None:
    monkeypatch.setattr(loading, "saturates", lambda: saturates)
    options = Session(build(SCALE), provider="cpu")._ort.get_session_options()
    key = "session.x64quantprecision"
    if saturates:
        assert options.get_session_config_entry(key) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(key)


def test_operators_without_a_wider_kernel_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = "float one = {1.0}, int8 nought = {0}, int8[2,2] w = {1, 2, 3, 100}"
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
        f" g (int8[N,2] x) => (int8[N,2] y) <{constants}> {{"
        ' y = com.microsoft.QGemm (x, one, nought, w, one, nought, "", one, nought) }'
    )
    onnx.save(proto, tmp_path / "model.onnx")
    monkeypatch.setattr(loading, "saturates", lambda: True)
    feeds = {"x": np.array([[1, 1]], np.int8)}
    assert Session(tmp_path / "model.onnx", provider="cpu").run(feeds)["y"].tolist() == [[4, 102]]


def test_runtime_needs_numpy_and_onnxruntime_only() -> None:
    forbidden = ("onnx", "graphpass", "torch", "rich", "PIL", "click", "onnx_graphsurgeon")
    modules = ("session", "data", "evaluation", "preprocess", "providers")
    program = (
        "import importlib, sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"  # importing one now raises
        f"for name in {modules!r}: importlib.import_module('graphpass_runtime.' + name)\n"
        "import numpy as np\n"
        "from graphpass_runtime.preprocess import Preprocess\n"
        "from graphpass_runtime.errors import GraphpassError\n"
        "images = np.zeros((1, 4, 4, 3), np.uint8)\n"
        "assert Preprocess(crop=(2, 2))(images).shape == (1, 3, 2, 2)\n"
        "try:\n    Preprocess(size=(2, 2))(images)\n"
        "except GraphpassError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pip install pillow" in done.stdout
