"""Running the same batch shape over and over without moving arrays to and fro.

`Session.run` copies its inputs to the device and its outputs back on every call, and
lets ONNX Runtime allocate both. A `Bound` batch has buffers of its own on the device,
allocated once: what runs, runs between fixed addresses, as a CUDA graph demands.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.feeds import Array, describe
from graphpass_runtime.ort_errors import shorten
from graphpass_runtime.providers import import_onnxruntime

_GRAPH_ID = "gpu_graph_id"  # of ONNX Runtime's run options
_NO_CAPTURE = "-1"
# One recording for each bound batch of a session; 0 is what ONNX Runtime uses itself.
_graph_ids = itertools.count(1)


@dataclass(frozen=True)
class Device:
    """Where buffers are: ``cpu`` or ``cuda``, and which one."""

    kind: str
    index: int = 0


def device_of(provider: str, options: Mapping[str, Any] | None) -> Device:
    """Where a session with these options has its memory."""
    if provider == "cpu":
        return Device("cpu")
    return Device("cuda", int((options or {}).get("device_id", 0)))


class Bound:
    """A batch whose inputs and outputs stay on the device; made by `Session.bind`.

    Args:
        session: an `onnxruntime.InferenceSession`.
        feeds: checked arrays for all inputs.
        outputs: names of the outputs to compute.
        device: where the session runs.
        cuda_graph: record the first run, and replay it afterwards.
        where: what to call the model in an error.

    Raises:
        DataError: an input that no device takes.
        ModelError: ONNX Runtime fails while running.
    """

    def __init__(
        self,
        session: Any,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        *,
        device: Device,
        cuda_graph: bool = False,
        where: str,
    ) -> None:
        ort = import_onnxruntime()
        self._where = where
        self._session = session
        self._binding = session.io_binding()
        self._options = ort.RunOptions()
        self._inputs: dict[str, Any] = {}
        self._kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for name, array in feeds.items():
            if array.dtype.kind in "OUST":
                raise DataError(
                    f"input {name!r} holds text, which no device takes",
                    where=where,
                    remedy="use run() instead of bind()",
                )
            # Never the caller's own memory, which ONNX Runtime would use on the CPU.
            self._inputs[name] = ort.OrtValue.ortvalue_from_shape_and_type(
                list(array.shape), array.dtype.type, device.kind, device.index
            )
            self._kinds[name] = (array.shape, array.dtype)
        self.update(feeds)
        self._outputs = self._allocate(outputs, device, cuda_graph)
        if cuda_graph:
            self._options = _run_options(str(next(_graph_ids)))

    def _allocate(self, names: Sequence[str], device: Device, cuda_graph: bool) -> dict[str, Any]:
        """Let a first run allocate the outputs, and keep what it allocated."""
        for name in names:
            self._binding.bind_output(name, device.kind, device.index)
        self._run(_run_options(_NO_CAPTURE) if cuda_graph else self._options)
        buffers = dict(zip(names, self._binding.get_outputs(), strict=True))
        for name, value in buffers.items():
            self._binding.bind_ortvalue_output(name, value)
        return buffers

    def run(self) -> None:
        """Compute the outputs from what is in the inputs, and wait for the device."""
        self._run(self._options)

    def update(self, feeds: Mapping[str, Array]) -> None:
        """Copy new data into the inputs; those that are not named keep theirs.

        Raises:
            DataError: no such input, or another shape or dtype than was bound.
        """
        for name, given in feeds.items():
            array = np.ascontiguousarray(given).reshape(np.shape(given))
            if name not in self._inputs:
                raise DataError(
                    f"no input {name!r}",
                    where=self._where,
                    remedy=f"the inputs are {', '.join(self._inputs)}",
                )
            shape, dtype = self._kinds[name]
            if array.shape != shape or array.dtype != dtype:
                dims = ",".join(map(str, shape))
                raise DataError(
                    f"input {name!r} is bound as {dtype}[{dims}], got {describe(array)}",
                    where=self._where,
                    remedy="bind again for another shape",
                )
        for name, given in feeds.items():
            array = np.ascontiguousarray(given).reshape(np.shape(given))
            self._inputs[name].update_inplace(array)
            # Binding copies an input that some operator wants in another place than the
            # device, such as the shape of a Reshape: so it is bound again.
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        self._binding.synchronize_inputs()

    def outputs(self) -> dict[str, Array]:
        """Copies of the outputs of the last run, by name."""
        self._binding.synchronize_outputs()
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def _run(self, options: Any) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            raise ModelError(
                f"ONNX Runtime fails while running it ({shorten(str(error))})", where=self._where
            ) from error


def _run_options(graph_id: str) -> Any:
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph_id)
    return options
