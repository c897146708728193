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

_BUILDS = ("onnxruntime", "onnxruntime-gpu")

# TF32 rounds the inputs of every fp32 product to 10 bits of mantissa, which moves
# membrane potentials across thresholds: parity first, speed on request.
_CUDA_DEFAULTS: Mapping[str, Any] = {"use_tf32": 0}


@dataclass(frozen=True)
class ResolvedProvider:
    """Where a session is to run.

    Attributes:
        name: ``cpu`` or ``cuda``.
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
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise ProviderError(f"onnxruntime does not load: {error}", remedy=_REINSTALL) from error
        raise ProviderError(
            "ONNX Runtime is not installed", remedy="install graphpass[cpu] or graphpass[gpu]"
        ) from error
    except (ImportError, OSError) as error:
        raise ProviderError(f"onnxruntime does not load: {error}", remedy=_REINSTALL) from error


_REINSTALL = "install it again, with graphpass[cpu] or graphpass[gpu]"


def resolve_provider(name: str, options: Mapping[str, Any] | None = None) -> ResolvedProvider:
    """Which provider a session should try.

    That a build lists CUDA does not mean that there is a GPU: ONNX Runtime finds
    out when it makes a session, and then silently uses the CPU. `Session` checks.

    Args:
        name: ``auto`` (CUDA where this build of ONNX Runtime has it, else CPU),
            ``cpu`` or ``cuda``.
        options: CUDA provider options of ONNX Runtime, over our default of
            ``use_tf32 = 0``; unused where ``auto`` takes the CPU.

    Raises:
        OptionError: no such provider, or options for the CPU.
        ProviderError: no ONNX Runtime, or ``cuda`` with a build that has no CUDA.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise OptionError(f"unknown provider {name!r}", remedy="choose auto, cpu or cuda")
    if name == "cpu" and options:
        raise OptionError("provider options are for cuda only", remedy="leave them out")
    ort = import_onnxruntime()
    has_cuda = CUDA in ort.get_available_providers()
    if name == "cuda" and not has_cuda:
        raise ProviderError(_why_no_cuda(), remedy=_GPU_REMEDY)
    if name == "cpu" or not has_cuda:
        return ResolvedProvider("cpu", [(CPU, {})])
    _preload(ort)
    settings = {key: _option(value) for key, value in {**_CUDA_DEFAULTS, **(options or {})}.items()}
    return ResolvedProvider("cuda", [(CUDA, settings), (CPU, {})])


_GPU_REMEDY = "pip uninstall onnxruntime, install graphpass[gpu], or use the provider cpu"


def _why_no_cuda() -> str:
    if _installed("onnxruntime-gpu"):
        return "the installed onnxruntime-gpu offers no CUDAExecutionProvider"
    return "provider cuda needs the package onnxruntime-gpu, which is not installed"


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
