"""Running a file that computes one time-step: T runs, states handed over in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphpass_runtime.device_io import Bound, Device, Steps
from graphpass_runtime.feeds import Array
from graphpass_runtime.metadata import State


class Stepper:
    """Runs a one-step file T times; called like an `onnxruntime.InferenceSession`.

    Args:
        session: the session of the file.
        states: what the file hands from step to step.
        steps: T.
        device: where states and inputs lie.
        where: what to call the model in an error.
        batched: inputs that carry the batch on axis 0.
        summed: outputs that are added up over the steps; of the others the last counts.

    Attributes:
        session: the session of the file.
    """

    def __init__(
        self,
        session: Any,
        states: Sequence[State],
        steps: int,
        *,
        device: Device,
        where: str,
        batched: Sequence[str] = (),
        summed: Sequence[str] = (),
    ) -> None:
        self.session = session
        self._states = tuple(states)
        self._steps = steps
        self._device = device
        self._where = where
        self._batched = tuple(batched)
        self._summed = frozenset(summed)

    def run(
        self, names: Sequence[str], feeds: Mapping[str, Array], _options: Any = None
    ) -> list[Array]:
        """Outputs after T steps from states at zero, in the order of `names`.

        Run options are not looked at: every step is a run with its own.
        """
        totals: dict[str, Array] = {}

        def add(outputs: list[Array]) -> None:
            for name, array in zip(names, outputs, strict=True):
                if name in self._summed:
                    totals[name] = totals[name] + array if name in totals else array.copy()

        bound = Bound(
            self.session,
            feeds,
            names,
            device=self._device,
            where=self._where,
            steps=self.steps_for(feeds),
            after_step=add if self._summed else None,
        )
        found = bound.outputs()
        return [totals.get(name, found[name]) for name in names]

    def steps_for(self, feeds: Mapping[str, Array]) -> Steps:
        """How this batch is run."""
        batch = len(feeds[self._batched[0]]) if self._batched else 1
        return Steps(self._states, self._steps, batch)
