"""The calibration rules by name: from stage 2 and data to the neurons of stage 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from graphpass.calibration import optimal, paper
from graphpass.calibration.measuring import Measuring
from graphpass.model import Model
from graphpass.neurons import Neuron

#: From stage 2 to the neurons and a summary in plain JSON values.
Calibration = Callable[[Model], tuple[tuple[Neuron, ...], dict[str, Any]]]

_SMALLEST_BATCH = 8
_ELEMENTS = 1 << 23  # of one tensor of a batch; a calibration graph holds a few such at once


@dataclass(frozen=True)
class Rule:
    """A calibration rule.

    Attributes:
        batch: samples per batch unless the user says otherwise; fewer, but no less than 8,
            where tensors are large and the result hardly depends on it.
        fixed: the result does depend on the batch size.
        run: from stage 2 to the neurons and a summary in plain JSON values; a rule that
            learns also replaces the weights in stage 2.
    """

    batch: int
    fixed: bool
    run: Callable[[Model, Measuring], tuple[tuple[Neuron, ...], dict[str, Any]]]

    def batch_for(self, elements: int) -> int:
        """Samples per batch for a net whose largest tensor has so many elements a sample."""
        if self.fixed:
            return self.batch
        return max(_SMALLEST_BATCH, min(self.batch, _ELEMENTS // max(1, elements)))


def _finetune(model: Model, measuring: Measuring) -> tuple[tuple[Neuron, ...], dict[str, Any]]:
    from graphpass.calibration.finetune import rule  # torch: only when asked for

    return rule.calibrate(model, measuring)


RULES: dict[str, Rule] = {
    "optimal": Rule(32, fixed=False, run=optimal.calibrate),
    "paper": Rule(10, fixed=True, run=paper.calibrate),
    "finetune": Rule(32, fixed=False, run=_finetune),
}


def calibration(name: str, measuring: Measuring, threshold: str | None) -> Calibration:
    """A rule, ready to run; `threshold` is one of `optimal.THRESHOLDS`, for that rule alone."""
    if threshold is not None:
        return partial(optimal.calibrate, measuring=measuring, threshold=threshold)
    run = RULES[name].run
    return lambda model: run(model, measuring)
