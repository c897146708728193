"""The calibration rule `finetune`: from the closed form on, by distillation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from graphpass.calibration import optimal
from graphpass.calibration.finetune.distillation import Distillation, Outcome
from graphpass.calibration.finetune.network import Network
from graphpass.calibration.finetune.neurons import LearnedNeuron, Reference
from graphpass.calibration.finetune.samples import Samples
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.reference import neurons_of, ranks_of
from graphpass.model import Model
from graphpass.neurons import Neuron

_BACKWARD = 2  # a backward pass costs about two forward ones


def calibrate(model: Model, measuring: Measuring) -> tuple[tuple[Neuron, ...], dict[str, Any]]:
    """Learn weights, thresholds, amplitudes and shifts; T stays.

    The same seed gives the same bytes on the same machine with the same number of threads.
    It runs on the CPU.

    Args:
        model: stage 2; its weights are replaced by what was learned.
        measuring: data, of which a tenth is held out, and how to train.

    Returns:
        The neurons, and a summary in plain JSON values: epochs that were run, the one that
        is kept (0: the closed form was best), relative squared error of the output on the
        held-out samples before and after, seed, samples, and the cost in passes over them.

    Raises:
        ModelError: a node that gradients cannot be taken through.
        DataError: too few samples.
    """
    student, teacher = Network(model), Network(model)
    started, closed = optimal.calibrate(model, measuring)
    ranks = ranks_of(model)
    samples = Samples.read(measuring)
    learning, held_out = samples.split()
    neurons = {n.name: LearnedNeuron(n, ranks[n.name]) for n in started}
    references = {name: Reference(n, ranks[name]) for name, n in neurons_of(model).items()}
    with _threads(measuring.training.threads):
        outcome = Distillation(student, neurons, teacher, references).run(
            learning, held_out, measuring
        )
    student.write_back()
    return tuple(neuron.learned() for neuron in neurons.values()), {
        "batch": measuring.batch,
        "samples": samples.count,
        "held_out": held_out.count,
        "seed": measuring.training.seed,
        "epochs": outcome.epochs,
        "best_epoch": outcome.best,
        "error_before": float(f"{outcome.errors[0]:.4g}"),
        "error_after": float(f"{outcome.errors[outcome.best]:.4g}"),
        "passes": round(closed["passes"] + _passes(outcome, held_out.count / samples.count), 2),
    }


def _passes(outcome: Outcome, held_out: float) -> float:
    """Forward passes of the ANN that learning cost: teacher and student run in each."""
    return outcome.epochs * (1 - held_out) * (2 + _BACKWARD) + 2 * len(outcome.errors) * held_out


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Torch's number of threads, put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
