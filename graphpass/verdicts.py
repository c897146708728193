"""What became of every activation of the ANN: the verdicts that a file carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from graphpass import populations
from graphpass.model import Model
from graphpass_runtime.errors import ModelError

Status = Literal["converted", "kept", "island", "refused", "dropped"]


@dataclass(frozen=True)
class Activation:
    """The verdict on one activation.

    Attributes:
        name: the tensor it writes in the normalised graph.
        operator: Relu, Clip, QCFS, the operators of another scalar function, or the name of
            an operator that is not converted.
        status: converted, kept (it stays analog), island (an operator of any kind that
            computes on rates between neurons), refused, or dropped (on request).
        reason: why it is not converted; of a population, how many neurons it has.
        channels: number of thresholds; 1 where the channel axis is lost.
        threshold_min: smallest threshold, None before it is known.
        threshold_max: largest threshold, None before it is known.
        work: of an island, the share of all multiply-accumulate operations that is done
            on rates because of it; None where it is not known.
    """

    name: str
    operator: str
    status: Status
    reason: str = ""
    channels: int | None = None
    threshold_min: float | None = None
    threshold_max: float | None = None
    work: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Activation:
        """Inverse of `to_json`.

        Raises:
            TypeError, ValueError: a field is missing, unknown or malformed.
        """
        verdict = cls(**values)
        texts = (verdict.name, verdict.operator, verdict.reason)
        numbers = (verdict.channels, verdict.threshold_min, verdict.threshold_max, verdict.work)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a name is no text")
        if not all(number is None or isinstance(number, int | float) for number in numbers):
            raise TypeError("a threshold is no number")
        if verdict.status not in get_args(Status):
            raise ValueError(f"the verdict {verdict.status!r} is unknown")
        return verdict


def recorded_verdicts(model: Model) -> tuple[Activation, ...]:
    """What a file of stage 1 or later says became of each activation.

    Raises:
        ModelError: that is damaged.
    """
    assert model.record is not None, "stage 1 has verdicts"
    try:
        return tuple(Activation.from_json(values) for values in model.record.activations)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"graphpass metadata is damaged ({error})",
            where=model.name,
            remedy="convert the ANN again",
        ) from error


def converted(model: Model) -> list[str]:
    """Names of the activations that become, or are, neurons, from stage 1 on."""
    return [verdict.name for verdict in recorded_verdicts(model) if verdict.status == "converted"]


def note_populations(model: Model, members: Mapping[str, int]) -> None:
    """Say so in the verdict table, where skips get rows behind the activations' own."""
    verdicts = []
    for verdict in recorded_verdicts(model):
        for name in (verdict.name, populations.skip_name(verdict.name)):
            count = members.get(name)
            if count is not None:
                reason = f"{count} neurons for each value"
                verdicts.append(replace(verdict, name=name, reason=reason).to_json())
            elif name == verdict.name:
                verdicts.append(verdict.to_json())
    model.note(activations=tuple(verdicts))


def note_thresholds(model: Model) -> None:
    """Put the thresholds into the verdict table."""
    assert model.record is not None, "stage 2 has a record"
    neurons = {neuron.name: neuron for neuron in model.record.neurons}
    verdicts = []
    for verdict in recorded_verdicts(model):
        if (neuron := neurons.get(verdict.name)) is None:
            verdicts.append(verdict.to_json())
            continue
        measured = replace(
            verdict,
            channels=neuron.channels,
            threshold_min=float(neuron.threshold.min()),
            threshold_max=float(neuron.threshold.max()),
        )
        verdicts.append(measured.to_json())
    model.note(activations=tuple(verdicts))
