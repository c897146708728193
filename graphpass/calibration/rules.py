"""The calibration rules by name: from stage 2 and data to the neurons of stage 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphpass.calibration import optimal, paper
from graphpass.calibration.measuring import Measuring
from graphpass.model import Model
from graphpass.neurons import Neuron


@dataclass(frozen=True)
class Rule:
    """A calibration rule.

    Attributes:
        batch: samples per batch unless the user says otherwise.
        run: from stage 2 to the neurons and a summary in plain JSON values.
    """

    batch: int
    run: Callable[[Model, Measuring], tuple[tuple[Neuron, ...], dict[str, Any]]]


RULES: dict[str, Rule] = {
    "optimal": Rule(32, optimal.calibrate),
    "paper": Rule(10, paper.calibrate),
}
