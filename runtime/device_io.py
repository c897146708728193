"""Running the same batch shape over and over without moving arrays to and fro.

`Session.run` copies its inputs to the device and its outputs back on every call, and
lets ONNX Runtime allocate both. A `Bound` batch has buffers of its own on the device,
allocated once: what runs, runs between fixed addresses, as a CUDA graph demands.

A file of one time-step is run T times. Its states are inputs and outputs of its graph, and
there are three buffers for each: zeros, which the first step reads and nothing writes, and
two that take turns, so that nothing is copied or cleared between steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphpass_runtime.errors import DataError
from graphpass_runtime.execution import execute
from graphpass_runtime.feeds import Array, describe
from graphpass_runtime.metadata import State
from graphpass_runtime.providers import import_onnxruntime

_GRAPH_ID = "gpu_graph_id"  # of ONNX Runtime's run options
_NO_CAPTURE = "-1"
# Which buffer of a state, of zeros and two more, a binding reads and which it writes: the
# first for the first step, the others in turn.
_TURNS = ((0, 1), (1, 2), (2, 1))
_STATE_DTYPE = np.float32
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


@dataclass(frozen=True)
class Steps:
    """How a file of one time-step is run.

    Attributes:
        states: what it hands from step to step; zero before the first.
        count: T.
        batch: rows of the states.
    """

    states: tuple[State, ...] = ()
    count: int = 1
    batch: int = 1


class Bound:
    """A batch whose inputs, states and outputs stay on the device; made by `Session.bind`.

    Args:
        session: an `onnxruntime.InferenceSession`.
        feeds: checked arrays for all inputs but states.
        outputs: names of the outputs to compute; of a file of one time-step, those of the
            last step.
        device: where the session runs.
        cuda_graph: record the first run, and replay it afterwards.
        where: what to call the model in an error.
        steps: for a file of one time-step.
        after_step: called after every step of the first run with the outputs.

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
        steps: Steps | None = None,
        after_step: Callable[[list[Array]], None] | None = None,
    ) -> None:
        ort = import_onnxruntime()
        self._where = where
        self._session = session
        steps = steps or Steps()
        turns = _TURNS[: min(len(_TURNS), steps.count)] if steps.states else _TURNS[:1]
        self._bindings = [session.io_binding() for _ in turns]
        # 0, then 1 and 2 in turn.
        self._order = [0, *(1 + step % 2 for step in range(steps.count - 1))]
        self._options = [ort.RunOptions() for _ in turns]
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
        self._outputs = self._allocate(outputs, device, steps, cuda_graph, after_step)
        if cuda_graph:
            self._options = [_run_options(str(next(_graph_ids))) for _ in turns]

    def _allocate(
        self,
        names: Sequence[str],
        device: Device,
        steps: Steps,
        cuda_graph: bool,
        after_step: Callable[[list[Array]], None] | None,
    ) -> dict[str, Any]:
        """Let a first run allocate the outputs, and keep what it allocated."""
        ort_value = import_onnxruntime().OrtValue
        for binding in self._bindings:
            for name in names:
                binding.bind_output(name, device.kind, device.index)
        for state in steps.states:
            # Not from an array, whose memory ONNX Runtime 1.21 uses without keeping it alive.
            zeros = np.zeros(state.shape_of(steps.batch), _STATE_DTYPE)
            buffers = [
                ort_value.ortvalue_from_shape_and_type(
                    list(zeros.shape), zeros.dtype.type, device.kind, device.index
                )
                for _ in range(3)
            ]
            for buffer in buffers:
                buffer.update_inplace(zeros)
            for binding, (before, after) in zip(self._bindings, _TURNS, strict=False):
                binding.bind_ortvalue_input(state.input, buffers[before])
                binding.bind_ortvalue_output(state.output, buffers[after])
        options = _run_options(_NO_CAPTURE) if cuda_graph else self._options[0]
        for turn in self._order:
            binding = self._bindings[turn]
            self._run(binding, options)
            if after_step is not None:
                found = binding.get_outputs()[: len(names)]  # bound first
                after_step([value.numpy() for value in found])
        last = self._bindings[self._order[-1]].get_outputs()
        outputs = dict(zip(names, last, strict=False))
        for binding in self._bindings:
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
        return outputs

    def run(self) -> None:
        """Compute the outputs from what is in the inputs, and wait for the device."""
        for turn in self._order:
            self._run(self._bindings[turn], self._options[turn])

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
            for binding in self._bindings:
                binding.bind_ortvalue_input(name, self._inputs[name])
        for binding in self._bindings:
            binding.synchronize_inputs()

    def outputs(self) -> dict[str, Array]:
        """Copies of the outputs of the last run, by name."""
        self._bindings[self._order[-1]].synchronize_outputs()
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def _run(self, binding: Any, options: Any) -> None:
        def run(options: Any) -> None:
            self._session.run_with_iobinding(binding, options)

        execute(run, where=self._where, options=options)


def _run_options(graph_id: str) -> Any:
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph_id)
    return options
