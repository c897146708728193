"""The calibration rules by name: from stage 2 and data to the neurons of stage 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphpass.calibration import optimal, paper
from graphpass.calibration.thresholds import OpenSession, Progress
from graphpass.model import Model
from graphpass.neurons import Neuron
from graphpass_runtime.data import Dataset


@dataclass(frozen=True)
class Measuring:
    """How to measure: the data, and how to run a graph on it."""

    data: Dataset
    batch: int
    passes: int
    open_session: OpenSession
    progress: Progress


Calibrated = tuple[tuple[Neuron, ...], dict[str, Any]]


@dataclass(frozen=True)
class Rule:
    """A calibration rule.

    Attributes:
        batch: samples per batch unless the user says otherwise.
        run: from stage 2 to the neurons and a summary in plain JSON values.
    """

    batch: int
    run: Callable[[Model, Measuring], Calibrated]


def _paper(model: Model, measuring: Measuring) -> Calibrated:
    neurons, batches = paper.calibrate(
        model,
        measuring.data,
        batch=measuring.batch,
        passes=measuring.passes,
        open_session=measuring.open_session,
        progress=measuring.progress,
    )
    return neurons, {
        "samples": measuring.data.samples,
        "batch": measuring.batch,
        "passes": measuring.passes,
        "batches": batches,
        "recovered": round(paper.recovered(batches), 4),
    }


def _optimal(model: Model, measuring: Measuring) -> Calibrated:
    neurons, summary = optimal.calibrate(
        model,
        measuring.data,
        batch=measuring.batch,
        open_session=measuring.open_session,
        progress=measuring.progress,
    )
    return neurons, {"batch": measuring.batch, **summary.to_json()}


RULES: dict[str, Rule] = {"optimal": Rule(32, _optimal), "paper": Rule(10, _paper)}
