"""Learning to give what the ANN gives: unlabeled distillation, with early stopping.

The loss of a batch is the squared error of the outputs, relative to the outputs' own
squares, plus the same for the output of every neuron layer: the output says what matters,
the layers say it soon enough for few epochs. Steps are those of Adam, relative to the size
of what they change, so that neither weights for inputs in 0..255 nor tiny thresholds need
a rate of their own; and smaller where little is left to learn, as with many time-steps:
full steps first lose there what the closed form had.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphpass.calibration.finetune.network import Network
from graphpass.calibration.finetune.neurons import Activation, LearnedNeuron
from graphpass.calibration.finetune.samples import Samples
from graphpass.calibration.measuring import Measuring

WEIGHT_RATE = 5e-3  # of the root mean square of a weight tensor
NEURON_RATE = 2e-2  # of a threshold (shift), and of one (logarithms of threshold and amplitude)
LAYER_SHARE = 0.5  # of the neuron layers in the loss, beside the outputs
FULL_RATE_ERROR = 0.1  # held-out error at the start from which on steps are full
# Share of the epochs without a better held-out error until learning stops: first steps lose what
# the closed form had, and are made good only when they become small.
PATIENCE = 0.75
_WARM_UP = 20  # steps until the full rate
_TINY = 1e-12


@dataclass(frozen=True)
class Outcome:
    """What learning came to.

    Attributes:
        epochs: epochs that were run.
        best: the epoch whose result is kept; 0 is the start.
        errors: relative squared error of the outputs on the held-out samples, at the start
            and after every epoch.
    """

    epochs: int
    best: int
    errors: tuple[float, ...]


class Distillation:
    """A network that spikes and learns, beside the one that it imitates.

    Args:
        student: the network with weights that learn.
        neurons: its neurons.
        teacher: the same graph, its weights left alone.
        references: what its activations compute.
    """

    def __init__(
        self,
        student: Network,
        neurons: Mapping[str, LearnedNeuron],
        teacher: Network,
        references: Mapping[str, Activation],
    ) -> None:
        self._student, self._neurons = student, neurons
        self._teacher, self._references = teacher, references
        self._learned = nn.ModuleList([student, *neurons.values()])

    def run(self, learning: Samples, held_out: Samples, measuring: Measuring) -> Outcome:
        """Learn; what is kept is what did best on the held-out samples."""
        training, size = measuring.training, measuring.batch
        random = torch.Generator().manual_seed(training.seed)
        errors = [self.error(held_out.batches(size))]
        groups = self._groups(min(1.0, errors[0] / FULL_RATE_ERROR))
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        steps = training.epochs * math.ceil(learning.count / size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        kept, best = self._copy(), 0
        advance = measuring.progress("finetuning", training.epochs * learning.count)
        for epoch in range(1, training.epochs + 1):
            for batch in learning.shuffled(size, random):
                optimizer.zero_grad()
                self._loss(batch.feeds).backward()
                optimizer.step()
                schedule.step()
                advance(batch.count)
            errors.append(self.error(held_out.batches(size)))
            if errors[-1] < errors[best]:
                kept, best = self._copy(), epoch
            elif epoch - best >= PATIENCE * training.epochs:
                break
        self._learned.load_state_dict(kept)
        return Outcome(len(errors) - 1, best, tuple(errors))

    @torch.no_grad()
    def error(self, batches: Iterable[Samples]) -> float:
        """Squared error of the outputs relative to the teacher's; infinite if not a number."""
        error = energy = 0.0
        for batch in batches:
            wanted, _ = self._teacher(batch.feeds, self._references)
            found, _ = self._student(batch.feeds, self._neurons)
            for name, expected in wanted.items():
                error += float((found[name] - expected).double().square().sum())
                energy += float(expected.double().square().sum())
        share = error / max(energy, _TINY)
        return share if math.isfinite(share) else math.inf

    def _loss(self, feeds: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            outputs, activations = self._teacher(feeds, self._references)
        found, layers = self._student(feeds, self._neurons)
        by_output = [_relative(found[name], wanted) for name, wanted in outputs.items()]
        by_layer = [_relative(layers[name], wanted) for name, wanted in activations.items()]
        return torch.stack(by_output).mean() + LAYER_SHARE * torch.stack(by_layer).mean()

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameters with the size of their steps; weights that are all zero stay so."""
        groups = []
        for weight in self._student.weights:
            size = float(weight.detach().square().mean().sqrt())
            if size > 0.0:
                groups.append({"params": [weight], "lr": rate * WEIGHT_RATE * size})
        parameters = [p for neuron in self._neurons.values() for p in neuron.parameters()]
        return [*groups, {"params": parameters, "lr": rate * NEURON_RATE}]

    def _copy(self) -> dict[str, Tensor]:
        return copy.deepcopy(self._learned.state_dict())


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    wanted = wanted.float()  # an output may hold integers, which there is nothing to learn from
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(_TINY)


def _rate(step: int, steps: int) -> float:
    """A short rise, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
