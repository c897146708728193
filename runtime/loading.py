"""From a model file to an ONNX Runtime session, or one line on why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.cpu import saturates
from graphpass_runtime.errors import ModelError, OptionError, ProviderError
from graphpass_runtime.extra_outputs import extra_outputs_suffix
from graphpass_runtime.feeds import TensorSpec
from graphpass_runtime.ort_errors import load_error, shorten
from graphpass_runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    import_onnxruntime,
    resolve_provider,
)

_GPU = (("tensorrt", TENSORRT), ("cuda", CUDA))
_SPELLED = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_WIDE = "session.x64quantprecision"
_SILENT = 4  # log severity: fatal only; what matters comes as an exception too

_DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "string": np.dtype(np.object_),
    **{name: np.dtype(name) for name in ("bool", "float16")},
    **{name: np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{name: np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
}
#: What classifiers of scikit-learn give: scores by label, for every sample.
_MAPS = tuple(f"seq(map({label},tensor(float)))" for label in ("int64", "string"))


@dataclass(frozen=True)
class ModelSource:
    """A model and how to run it: everything that makes one session like another.

    Attributes:
        model: path of an ONNX file, or its bytes.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
        options: options for the provider, or None.
        threads: threads within one operator; None = ONNX Runtime's default.
        spinning: idle threads wait actively for a while, which is faster for one session
            and takes the cores from every other.
        tf32: CUDA may round the inputs of fp32 products.
        cuda_graph: runs are recorded and replayed.
        file_order: nodes run in the order of the file.
    """

    model: Path | bytes
    provider: str
    options: Mapping[str, Any] | None
    threads: int | None
    spinning: bool = True
    tf32: bool = False
    cuda_graph: bool = False
    file_order: bool = False

    def __post_init__(self) -> None:
        """Check what ONNX Runtime would not.

        Raises:
            OptionError: threads below 1.
            ModelError: no such file.
        """
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}", remedy="give 1 or more")
        if isinstance(self.model, Path) and not self.model.is_file():
            problem = "is a folder" if self.model.is_dir() else "no such file"
            raise ModelError(problem, where=self.where, remedy="give the path of an ONNX file")

    @property
    def where(self) -> str:
        """What to call the model in an error."""
        return "model" if isinstance(self.model, bytes) else str(self.model)

    def create(self, extra: Sequence[str] = (), *, profile: Path | None = None) -> tuple[Any, str]:
        """Make an `onnxruntime.InferenceSession`.

        Args:
            extra: inner tensors that become outputs.
            profile: what ONNX Runtime's profile is to be called, a time added; None
                switches the profiler off.

        Returns:
            The session, and what it runs on: ``cpu``, ``cuda`` or ``tensorrt``.

        Raises:
            ModelError: ONNX Runtime does not load the model.
            ProviderError: no ONNX Runtime, or a GPU provider that does not start.
            OptionError: ``cuda_graph``, and `auto` takes the CPU.
        """
        ort = import_onnxruntime()
        resolved = resolve_provider(
            self.provider, self.options, tf32=self.tf32, cuda_graph=self.cuda_graph
        )
        try:
            session = self._load(ort, extra, resolved.ort_providers, profile)
        except (RuntimeError, ValueError) as error:
            # How a provider fails that cannot start; a model fails as a ModelError.
            if resolved.name == "cpu":
                raise load_error(error, where=self.where) from error
            if self.provider != "auto" or self.cuda_graph:
                raise self._not_started(shorten(str(error))) from error
            session = self._load(ort, extra, [(CPU, {})], profile)
        active = session.get_providers()
        took = next((name for name, ort_name in _GPU if ort_name in active), "cpu")
        if took != resolved.name and (self.provider != "auto" or self.cuda_graph):
            raise self._not_started(f"ONNX Runtime fell back to {_SPELLED[took]}")
        return session, took

    def _load(
        self,
        ort: ModuleType,
        extra: Sequence[str],
        providers: list[tuple[str, dict[str, str]]],
        profile: Path | None,
    ) -> Any:
        options = ort.SessionOptions()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        options.log_severity_level = _SILENT
        if self.file_order:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if saturates():  # a wider kernel, less than half as fast
            options.add_session_config_entry(_WIDE, "1")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if not self.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        folder = None if isinstance(self.model, bytes) else self.model.parent
        source: str | bytes
        if isinstance(self.model, bytes):
            source = self.model + extra_outputs_suffix(extra)
        elif extra:
            source = self._read(self.model) + extra_outputs_suffix(extra)
            # A model from bytes looks for its external data in the working folder.
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path",
                str(self.model.parent.resolve()),
            )
        else:
            source = str(self.model)
        try:
            return _start(ort, source, options, providers)
        except (RuntimeError, ValueError):
            raise
        except Exception as error:  # ONNX Runtime's own share no other base
            raise load_error(error, where=self.where, folder=folder) from error

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"cannot be read ({error.strerror})", where=self.where, remedy="check the file"
            ) from error

    def _not_started(self, reason: str) -> ProviderError:
        return ProviderError(
            f"the provider {self.provider} does not start ({reason})",
            remedy="check the GPU driver and the CUDA libraries, or use the provider cpu",
        )


def _start(
    ort: ModuleType, source: str | bytes, options: Any, providers: list[tuple[str, dict[str, str]]]
) -> Any:
    # Its Python fallback prints to stdout and hides what it ran on: off.
    create = partial(ort.InferenceSession, source, options, providers, enable_fallback=0)
    try:
        return create()
    except Exception as error:
        if type(error).__name__ != "NotImplemented" or not saturates():
            raise
        # Fused operators on signed integers (QGemm) have the narrow kernel alone.
        options.add_session_config_entry(_WIDE, "0")
        return create()


Specs = tuple[TensorSpec, ...]


def describe_session(session: Any, *, where: str) -> tuple[Specs, Specs, dict[str, str]]:
    """Inputs, outputs and metadata of an `onnxruntime.InferenceSession`.

    Raises:
        ModelError: an input or output is no tensor, or of a type that NumPy does not
            have; or the file's texts are damaged.
    """
    try:
        inputs = tuple(_spec(value, where) for value in session.get_inputs())
        outputs = tuple(_spec(value, where) for value in session.get_outputs())
        return inputs, outputs, dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise ModelError(
            "names or metadata are damaged", where=where, remedy="check that the file is complete"
        ) from error


def as_array(result: Any) -> NDArray[Any]:
    """A result of ONNX Runtime; of a map per sample ``[N, K]``, labels in ascending order."""
    if isinstance(result, list):
        return np.array([list(scores.values()) for scores in result], np.float32)
    array: NDArray[Any] = result
    return array


def _spec(value: Any, where: str) -> TensorSpec:
    # ONNX Runtime spells a type "tensor(float16)" or "seq(tensor(float))".
    if value.type in _MAPS:
        return TensorSpec(value.name, np.dtype(np.float32), (None, None))
    dtype = _DTYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise ModelError(
            f"{value.name!r} is a {value.type}, which has no NumPy array",
            where=where,
            remedy="export the model with float inputs and outputs",
        )
    return TensorSpec(value.name, dtype, tuple(value.shape))
