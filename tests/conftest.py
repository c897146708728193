"""What several test packages need."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from graphpass_models.digits import Digits, load_digits

onnxruntime.set_default_logger_severity(4)


#: What the oldest packages say of models from after their time. ONNX Runtime before 1.26 stumbles
#: over a ReduceMean without axes and over a sum in Einsum, before 1.28 over a FusedConv that adds
#: its own input; onnx before 1.23 reads no tiny numbers in text.
_TOO_NEW = (
    r"till opset \d+|ir_version \d+ is higher than the checker's|Unsupported model IR version|"
    r"Non-zero status code returned while running (ReduceMean|Einsum)|"
    r"Could not find an implementation for|output and sum shape must match|^stof$"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Under `make oldest`, a model that is too new for the old packages is no failure."""
    try:
        return (yield)
    except Exception as error:
        too_new = re.search(_TOO_NEW, str(error))
        if too_new and "GRAPHPASS_OLDEST" in os.environ:
            pytest.skip(f"too new for the oldest packages: {too_new.group()}")
        raise


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real networks and data sets; tests that need it skip without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GRAPHPASS_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set GRAPHPASS_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The handwritten digits."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return load_digits()


@pytest.fixture(scope="session")
def digits_npz(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files as a user has them: 100 digits to calibrate on, 60 labelled held-out ones."""
    folder = tmp_path_factory.mktemp("digits")
    np.savez(folder / "calib.npz", image=digits.train_images[:100])
    np.savez(folder / "test.npz", image=digits.test_images[:60], labels=digits.test_labels[:60])
    return folder / "calib.npz", folder / "test.npz"


@pytest.fixture(scope="session")
def bare_run() -> Callable[..., dict[str, Any]]:
    """Run a file or its bytes in ONNX Runtime and nothing else; all outputs by name."""

    def run(model: str | Path | bytes, feeds: Mapping[str, Any]) -> dict[str, Any]:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model given as ONNX text; weights may be arrays by name."""

    def write(
        text: str,
        weights: Mapping[str, Any] | None = None,
        *,
        opset: int = 17,
        name: str = "ann.onnx",
    ) -> Path:
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
        for key, array in (weights or {}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), key))
        onnx.checker.check_model(model)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return write
