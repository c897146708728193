"""Running a file that computes one time-step: T runs, states handed over in place.

The states of such a file are inputs and outputs of its graph. There are two buffers
for each, and two bindings that differ in which is read and which is written, so that
nothing is copied between steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphpass_runtime.device_io import Device
from graphpass_runtime.feeds import Array
from graphpass_runtime.metadata import State
from graphpass_runtime.providers import import_onnxruntime

_STATE_DTYPE = np.float32


class Stepper:
    """Runs a one-step file T times; called like an `onnxruntime.InferenceSession`.

    Args:
        session: the session of the file.
        states: what the file hands from step to step.
        steps: T.
        device: where states and inputs lie.
        batched: inputs that carry the batch on axis 0.
        summed: outputs that are added up over the steps; of the others the last counts.
    """

    def __init__(
        self,
        session: Any,
        states: Sequence[State],
        steps: int,
        *,
        device: Device,
        batched: Sequence[str] = (),
        summed: Sequence[str] = (),
    ) -> None:
        self._session = session
        self._states = tuple(states)
        self._steps = steps
        self._device = device
        self._batched = tuple(batched)
        self._summed = frozenset(summed)
        self._ort_value = import_onnxruntime().OrtValue

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs after T steps from states at zero, in the order of `names`."""
        batch = len(feeds[self._batched[0]]) if self._batched else 1
        inputs = {name: self._on_device(array) for name, array in feeds.items()}
        buffers = [
            [
                self._on_device(np.zeros(state.shape_of(batch), _STATE_DTYPE))
                for state in self._states
            ]
            for _ in range(2)
        ]
        bindings = [
            self._bind(names, inputs, buffers[turn], buffers[1 - turn]) for turn in range(2)
        ]
        totals: dict[str, Array] = {}
        for step in range(self._steps):
            binding = bindings[step % 2]
            self._session.run_with_iobinding(binding)
            if self._summed:
                for name, array in zip(names, self._outputs(binding, names), strict=True):
                    if name in self._summed:
                        totals[name] = totals[name] + array if name in totals else array.copy()
        results = self._outputs(bindings[(self._steps - 1) % 2], names)
        return [totals.get(name, array) for name, array in zip(names, results, strict=True)]

    def _bind(
        self, names: Sequence[str], inputs: Mapping[str, Any], before: list[Any], after: list[Any]
    ) -> Any:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, self._device.kind, self._device.index)
        for state, value in zip(self._states, before, strict=True):
            binding.bind_ortvalue_input(state.input, value)
        for state, value in zip(self._states, after, strict=True):
            binding.bind_ortvalue_output(state.output, value)
        return binding

    def _on_device(self, array: Array) -> Any:
        contiguous = np.ascontiguousarray(array)
        device = self._device
        return self._ort_value.ortvalue_from_numpy(contiguous, device.kind, device.index)

    @staticmethod
    def _outputs(binding: Any, names: Sequence[str]) -> list[Array]:
        # The requested outputs were bound first.
        values = binding.get_outputs()[: len(names)]
        return [value.numpy() for value in values]
