"""Finding ONNX Runtime and what to run on."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from graphpass_runtime.errors import OptionError, ProviderError
from graphpass_runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    import_onnxruntime,
    resolve_provider,
)

Patch = pytest.MonkeyPatch


def _distributions(patch: Patch, *installed: str) -> None:
    def find(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return name

    patch.setattr(importlib.metadata, "distribution", find)


def _build(patch: Patch, *providers: str) -> list[str]:
    """Pretend that ONNX Runtime offers these providers; returns the log of preloads."""
    calls: list[str] = []

    def preload() -> None:
        calls.append("preload")
        sys.stdout.write("Failed to load libcudart.so")

    fake = SimpleNamespace(
        get_available_providers=lambda: list(providers),
        preload_dlls=preload,
        set_default_logger_severity=lambda level: None,
    )
    patch.setattr(importlib, "import_module", lambda name: fake)
    return calls


def test_both_builds_installed_is_an_error(monkeypatch: Patch) -> None:
    _distributions(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(ProviderError, match=r"both installed.*install graphpass"):
        import_onnxruntime()


def test_no_build_installed_is_an_error(monkeypatch: Patch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    _distributions(monkeypatch)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ProviderError, match=r"install graphpass\[cpu\] or graphpass\[gpu\]"):
        import_onnxruntime()


def test_broken_build_is_an_error_in_one_line(monkeypatch: Patch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libfoo.so: cannot open\nsecond line")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ProviderError, match="does not load") as caught:
        import_onnxruntime()
    assert "\n" not in str(caught.value)


def test_cuda_without_the_gpu_package_says_so(monkeypatch: Patch) -> None:
    _distributions(monkeypatch, "onnxruntime")
    _build(monkeypatch, CPU)
    with pytest.raises(ProviderError, match="onnxruntime-gpu, which is not installed"):
        resolve_provider("cuda", None)


def test_gpu_package_without_cuda_says_so(monkeypatch: Patch) -> None:
    _distributions(monkeypatch, "onnxruntime-gpu")
    _build(monkeypatch, CPU)
    with pytest.raises(ProviderError, match="offers no CUDAExecutionProvider"):
        resolve_provider("cuda", None)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_cuda_is_exact_by_default_and_silent(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    calls = _build(monkeypatch, CUDA, CPU)
    resolved = resolve_provider(name, {"device_id": 1, "enable_cuda_graph": False})
    options = {"use_tf32": "0", "device_id": "1", "enable_cuda_graph": "0"}
    assert resolved.name == "cuda"
    assert resolved.ort_providers == [(CUDA, options), (CPU, {})]
    assert calls == ["preload"]
    assert capsys.readouterr().out == ""


def test_tf32_can_be_asked_for(monkeypatch: Patch) -> None:
    _build(monkeypatch, CUDA, CPU)
    assert resolve_provider("cuda", {"use_tf32": True}).ort_providers[0][1]["use_tf32"] == "1"


def test_auto_takes_the_cpu_where_there_is_no_cuda(monkeypatch: Patch) -> None:
    calls = _build(monkeypatch, CPU)
    assert resolve_provider("auto", {"use_tf32": 1}).ort_providers == [(CPU, {})]
    assert not calls


def test_cpu_is_taken_though_there_is_cuda(monkeypatch: Patch) -> None:
    _build(monkeypatch, CUDA, CPU)
    assert resolve_provider("cpu", None).ort_providers == [(CPU, {})]


def test_senseless_options_are_refused() -> None:
    with pytest.raises(OptionError, match="choose auto, cpu, cuda or tensorrt"):
        resolve_provider("tpu", None)
    with pytest.raises(OptionError, match="cuda only"):
        resolve_provider("cpu", {"device_id": 1})


def test_flags_become_provider_options(monkeypatch: Patch) -> None:
    _build(monkeypatch, TENSORRT, CUDA, CPU)
    providers = resolve_provider("cuda", None, tf32=True, cuda_graph=True).ort_providers
    assert providers == [(CUDA, {"use_tf32": "1", "enable_cuda_graph": "1"}), (CPU, {})]
    assert resolve_provider("auto").ort_providers == [(CUDA, {"use_tf32": "0"}), (CPU, {})]


def test_tensorrt_has_cuda_behind_it(monkeypatch: Patch) -> None:
    _build(monkeypatch, TENSORRT, CUDA, CPU)
    options = {"device_id": 1, "trt_engine_cache_enable": True}
    resolved = resolve_provider("tensorrt", options, cuda_graph=True)
    assert resolved.name == "tensorrt"
    assert resolved.ort_providers == [
        (
            TENSORRT,
            {"trt_cuda_graph_enable": "1", "device_id": "1", "trt_engine_cache_enable": "1"},
        ),
        (CUDA, {"use_tf32": "0", "device_id": "1"}),
        (CPU, {}),
    ]


def test_tensorrt_that_is_not_there_is_an_error(monkeypatch: Patch) -> None:
    _distributions(monkeypatch, "onnxruntime-gpu")
    _build(monkeypatch, CUDA, CPU)
    with pytest.raises(ProviderError, match="offers no TensorrtExecutionProvider"):
        resolve_provider("tensorrt")
    _distributions(monkeypatch, "onnxruntime")
    with pytest.raises(ProviderError, match="tensorrt needs the package onnxruntime-gpu"):
        resolve_provider("tensorrt")


def test_flags_of_a_gpu_are_refused_on_the_cpu(monkeypatch: Patch) -> None:
    _build(monkeypatch, CPU)
    with pytest.raises(OptionError, match="tf32 is for cuda only"):
        resolve_provider("cpu", tf32=True)
    for name in ("cpu", "auto"):
        with pytest.raises(OptionError, match="no CUDA graphs on the CPU"):
            resolve_provider(name, cuda_graph=True)
    assert resolve_provider("auto", tf32=True).name == "cpu"
