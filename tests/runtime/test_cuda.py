"""On a GPU: the same spikes as on the CPU, recorded graphs, float16. Skipped without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from graphpass import convert
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.errors import GraphpassError
from graphpass_runtime.providers import CPU
from graphpass_runtime.session import Session

_TINY = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'


def _why_not(provider: str) -> str | None:
    """Why a session does not start on this provider; None when it does."""
    try:
        Session(onnx.parser.parse_model(_TINY).SerializeToString(), provider=provider)
    except GraphpassError as error:
        return str(error)
    return None


NO_CUDA = _why_not("cuda")
NO_TENSORRT = _why_not("tensorrt") if NO_CUDA is None else NO_CUDA
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(NO_CUDA is not None, reason=f"no usable CUDA: {NO_CUDA}"),
]

Snn = Callable[..., Path]


@pytest.fixture(scope="module")
def snn(digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Snn:
    """The digits network in a form and a precision, calibrated once on the CPU."""
    folder = tmp_path_factory.mktemp("cuda")

    def make(form: str = "counts", precision: str = "fp32", steps: int = 8) -> Path:
        kept, path = folder / str(steps), folder / f"{form}-{precision}-{steps}.onnx"
        if not kept.exists():
            ann, data = digits_model_path("digits_cnn"), str(digits_npz[0])
            convert(ann, path, steps=steps, data=data, provider="cpu", stages=kept)
        if not path.exists():
            convert(kept / "3-calibrated.onnx", path, form=form, precision=precision)
        return path

    return make


def _feeds(digits: Digits, start: int = 0, count: int = 60) -> dict[str, Any]:
    return {"image": digits.test_images[start : start + count]}


def _share_of_equal_counts(left: dict[str, Any], right: dict[str, Any]) -> float:
    assert list(left) == list(right)
    equal = [left[name] == right[name] for name in left]
    return float(np.concatenate([flags.ravel() for flags in equal]).mean())


@pytest.mark.parametrize("form", ["matmul", "sorted", "counts"])
def test_spikes_are_those_of_the_cpu(snn: Snn, digits: Digits, form: str) -> None:
    path, feeds = snn(form, steps=16), _feeds(digits)
    cpu, cuda = (Session(path, provider=name) for name in ("cpu", "cuda"))
    assert cuda.provider == "cuda"
    share = _share_of_equal_counts(cpu.spike_counts(feeds), cuda.spike_counts(feeds))
    assert share >= 0.999  # near ties, and what follows from them
    left, right = (session.run(feeds)["logits"] for session in (cpu, cuda))
    assert (left.argmax(axis=1) == right.argmax(axis=1)).mean() >= 0.98


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_node_of_the_counts_form_is_on_the_gpu(snn: Snn, precision: str) -> None:
    placement = Session(snn(precision=precision), provider="cuda").placement()
    assert CPU not in placement.operators(), placement.operators()
    assert not [node for node in placement.nodes if node.operator.startswith("Memcpy")]


def test_bound_batch_gives_what_run_gives(snn: Snn, digits: Digits) -> None:
    session = Session(snn(), provider="cuda")
    bound = session.bind(_feeds(digits))
    for start in (0, 60, 120):
        bound.update(_feeds(digits, start))
        bound.run()
        expected = session.run(_feeds(digits, start))["logits"]
        np.testing.assert_array_equal(bound.outputs()["logits"], expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_replay_of_a_graph_gives_what_run_gives(snn: Snn, digits: Digits, precision: str) -> None:
    path = snn(precision=precision)
    plain, graph = Session(path, provider="cuda"), Session(path, provider="cuda", cuda_graph=True)
    # Two shapes: each is recorded on its own.
    bounds = {count: graph.bind(_feeds(digits, 0, count)) for count in (1, 60)}
    for start in (0, 60, 120):
        for count, bound in bounds.items():
            feeds = _feeds(digits, start, count)
            bound.update(feeds)
            bound.run()
            expected = plain.run(feeds)["logits"]
            np.testing.assert_allclose(bound.outputs()["logits"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_bound_steps_of_a_serial_network_give_what_run_gives(
    digits: Digits, digits_npz: tuple[Path, Path], tmp_path: Path, cuda_graph: bool
) -> None:
    path, ann, data = tmp_path / "step.onnx", digits_model_path("digits_cnn"), str(digits_npz[0])
    convert(ann, path, steps=8, data=data, method="qcfs", serial="step", provider="cpu")
    cpu = Session(path, provider="cpu")
    bound = Session(path, provider="cuda", cuda_graph=cuda_graph).bind(_feeds(digits))
    for start in (0, 60, 0):
        bound.update(_feeds(digits, start))
        bound.run()
        expected = cpu.run(_feeds(digits, start))["logits"]
        found = bound.outputs()["logits"]
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.98


def test_tf32_is_off_unless_asked_for(tmp_path: Path) -> None:
    # 1 + 2^-12 has more bits than TF32 keeps.
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,512] x, float[512,512] w) => (float[N,512] y) { y = MatMul(x, w) }'  # noqa: E501
    model = onnx.parser.parse_model(text).SerializeToString()
    feeds = {
        "x": np.full((64, 512), 1 + 2.0**-12, np.float32),
        "w": np.eye(512, dtype=np.float32),
    }
    exact = Session(model, provider="cuda").run(feeds)["y"]
    np.testing.assert_array_equal(exact, feeds["x"])
    rounded = Session(model, provider="cuda", tf32=True).run(feeds)["y"]
    np.testing.assert_allclose(rounded, feeds["x"], rtol=2.0**-10)


def test_float16_answers_like_float32(snn: Snn, digits: Digits) -> None:
    feeds = _feeds(digits, 0, len(digits.test_images))
    left, right = (
        Session(snn(precision=precision, steps=32), provider="cuda").run(feeds)["logits"]
        for precision in ("fp32", "fp16")
    )
    assert right.dtype == np.float32
    assert (left.argmax(axis=1) == right.argmax(axis=1)).mean() >= 0.98


@pytest.mark.skipif(NO_TENSORRT is not None, reason=f"no usable TensorRT: {NO_TENSORRT}")
def test_tensorrt_takes_the_graph(snn: Snn, digits: Digits) -> None:
    feeds = _feeds(digits)
    cpu, tensorrt = (Session(snn(), provider=name) for name in ("cpu", "tensorrt"))
    assert tensorrt.provider == "tensorrt"
    assert "TensorrtExecutionProvider" in tensorrt.placement(feeds).operators()
    left, right = (session.run(feeds)["logits"] for session in (cpu, tensorrt))
    assert (left.argmax(axis=1) == right.argmax(axis=1)).mean() >= 0.98
