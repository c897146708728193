"""Finding ONNX Runtime, and the execution provider to run on.

ONNX Runtime comes in builds (`onnxruntime`, `onnxruntime-gpu`) that install the
same files over each other, so graphpass depends on neither and says plainly what
is missing or doubled.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from graphpass_runtime.errors import OptionError, ProviderError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

NAMES = ("auto", "cpu", "cuda", "tensorrt")

_BUILDS = ("onnxruntime", "onnxruntime-gpu")

_CUDA_GRAPH = {"cuda": "enable_cuda_graph", "tensorrt": "trt_cuda_graph_enable"}


@dataclass(frozen=True)
class ResolvedProvider:
    """Where a session is to run.

    Attributes:
        name: ``cpu``, ``cuda`` or ``tensorrt``.
        ort_providers: what `onnxruntime.InferenceSession` takes as `providers`.
    """

    name: str
    ort_providers: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def import_onnxruntime() -> ModuleType:
    """The `onnxruntime` module.

    Raises:
        ProviderError: it is not installed, it is installed twice, or it does not load.
    """
    if all(map(_installed, _BUILDS)):
        # Whichever was installed last wins, and removing one breaks the other.
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            remedy="pip uninstall both, then install graphpass[cpu] or graphpass[gpu]",
        )
    try:
        module = importlib.import_module("onnxruntime")
        # Beside the log of each session it keeps one of the process. What either says of a
        # failure comes as an exception too.
        module.set_default_logger_severity(4)
        return module
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise ProviderError(f"onnxruntime does not load: {error}", remedy=_REINSTALL) from error
        raise ProviderError(
            "ONNX Runtime is not installed", remedy="install graphpass[cpu] or graphpass[gpu]"
        ) from error
    except (ImportError, OSError) as error:
        raise ProviderError(f"onnxruntime does not load: {error}", remedy=_REINSTALL) from error


_REINSTALL = "install it again, with graphpass[cpu] or graphpass[gpu]"


def resolve_provider(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    tf32: bool = False,
    cuda_graph: bool = False,
) -> ResolvedProvider:
    """Which provider a session should try.

    That a build lists CUDA does not mean that there is a GPU: ONNX Runtime finds
    out when it makes a session, and then silently uses the CPU. `Session` checks.

    Args:
        name: ``auto`` (CUDA where this build of ONNX Runtime has it, else CPU),
            ``cpu``, ``cuda``, or ``tensorrt`` (with CUDA for what it does not take).
        options: ONNX Runtime's options for that provider, over ours; unused where
            ``auto`` takes the CPU.
        tf32: let CUDA round the inputs of every fp32 product to 10 bits of mantissa.
            That is faster, and moves membrane potentials across thresholds. TensorRT
            itself goes by the environment variable NVIDIA_TF32_OVERRIDE alone.
        cuda_graph: record a run once, and replay it afterwards.

    Raises:
        OptionError: no such provider, or what only a GPU has for the CPU.
        ProviderError: no ONNX Runtime, or a provider that its build does not have.
    """
    if name not in NAMES:
        raise OptionError(
            f"unknown provider {name!r}", remedy=f"choose {', '.join(NAMES[:-1])} or {NAMES[-1]}"
        )
    if name == "cpu":
        _refuse_gpu_options(options, tf32=tf32, cuda_graph=cuda_graph)
    ort = import_onnxruntime()
    available = ort.get_available_providers()
    wanted = {"cuda": CUDA, "tensorrt": TENSORRT}.get(name)
    if wanted is not None and wanted not in available:
        raise ProviderError(_why_absent(name, wanted), remedy=_GPU_REMEDY)
    if name == "cpu" or (name == "auto" and CUDA not in available):
        _refuse_gpu_options(cuda_graph=cuda_graph)
        return ResolvedProvider("cpu", [(CPU, {})])
    _preload(ort)
    chosen = "tensorrt" if name == "tensorrt" else "cuda"
    ours: dict[str, Any] = {"use_tf32": tf32} if chosen == "cuda" else {}
    if cuda_graph:
        ours[_CUDA_GRAPH[chosen]] = True
    settings = {key: _option(value) for key, value in {**ours, **(options or {})}.items()}
    if chosen == "cuda":
        return ResolvedProvider(chosen, [(CUDA, settings), (CPU, {})])
    rest = {"use_tf32": _option(tf32)}
    if "device_id" in settings:
        rest["device_id"] = settings["device_id"]
    return ResolvedProvider(chosen, [(TENSORRT, settings), (CUDA, rest), (CPU, {})])


_GPU_REMEDY = "pip uninstall onnxruntime, install graphpass[gpu], or use the provider cpu"


def _refuse_gpu_options(
    options: Mapping[str, Any] | None = None, *, tf32: bool = False, cuda_graph: bool = False
) -> None:
    if options:
        raise OptionError("provider options are for cuda only", remedy="leave them out")
    if tf32:
        raise OptionError("tf32 is for cuda only", remedy="leave it out")
    if cuda_graph:
        raise OptionError(
            "there are no CUDA graphs on the CPU", remedy="use the provider cuda, or leave it out"
        )


def _why_absent(name: str, provider: str) -> str:
    if _installed("onnxruntime-gpu"):
        return f"the installed onnxruntime-gpu offers no {provider}"
    return f"provider {name} needs the package onnxruntime-gpu, which is not installed"


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _preload(ort: ModuleType) -> None:
    # Loads the CUDA libraries of the nvidia-* packages. It prints what it does not
    # find, which is no news where they are installed system-wide.
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _option(value: object) -> str:
    # ONNX Runtime takes strings, and 1 and 0 for booleans.
    return str(int(value)) if isinstance(value, bool) else str(value)
