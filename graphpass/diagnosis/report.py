"""What a diagnosis says, and what it advises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from graphpass.diagnosis.noise import Firing, Noise, decibels

_MOSTLY = 0.5
_GUILTY = 0.05  # a layer that adds so much has an error of its own, whatever came before
_NEVER = 1e-4  # of neurons and samples


@dataclass(frozen=True)
class Layer:
    """One layer of neurons.

    Attributes:
        name: the activation that it replaces.
        share: what it adds to the squared error of the outputs, as a share of all of it;
            negative where it makes up for an error of an earlier layer. None where it is not
            known, or there is no error.
        current_db: signal-to-error ratio of its current, in dB; None where it is not known
            or there is no (finite) error. The same holds for the other two.
        activation_db: of its activation.
        own_db: of what it would make of the ANN's current: its own error alone.
        rate: spikes per neuron and time-step that it may fire in; None, as the next two,
            where the file does not show its spikes.
        saturated: share of neurons and samples that fire at every step.
        silent: share that does not fire.
        advice: in a few words, what the numbers say.
    """

    name: str
    share: float | None = None
    current_db: float | None = None
    activation_db: float | None = None
    own_db: float | None = None
    rate: float | None = None
    saturated: float | None = None
    silent: float | None = None
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Which layer lost it.

    Attributes:
        samples: on how many samples.
        output_error: ``||y - y_ann|| / ||y_ann||`` over all outputs; None where it is no
            finite number.
        agreement: share of samples with the ANN's answer; None where it was not measured.
        layers: the one that adds most to the error of the outputs first.
        passes: how many networks of the ANN's size or more were run on every sample.
        note: why something is missing; empty when nothing is.
    """

    samples: int
    output_error: float | None
    agreement: float | None
    layers: tuple[Layer, ...]
    passes: int = 0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def layer(
    name: str,
    firing: Firing | None,
    noise: Noise | None = None,
    share: float | None = None,
) -> Layer:
    """Numbers of a layer from what was summed up."""
    rates: dict[str, Any] = {}
    if firing is not None:
        saturated, silent = (firing.share(n) for n in (firing.saturated, firing.silent))
        rates = {"rate": firing.rate, "saturated": saturated, "silent": silent}
    if noise is None:
        advice = "silent: it never fires" if rates.get("silent") == 1.0 else ""
        return Layer(name, share, **rates, advice=advice)
    return Layer(
        name,
        share,
        decibels(noise.current, noise.current_error),
        decibels(noise.activation, noise.activation_error),
        decibels(noise.activation, noise.own_error),
        **rates,
        advice=_advice(firing, noise, guilty=share is not None and share >= _GUILTY),
    )


def by_damage(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The largest share first; layers without one stay in order, at the end."""
    ordered = sorted(layers, key=lambda one: (one.share is None, -(one.share or 0.0)))
    return tuple(ordered)


def _advice(firing: Firing | None, noise: Noise, *, guilty: bool) -> str:
    """The main cause of the error."""
    if firing is not None and firing.silent == firing.neurons:
        return "silent: it never fires"
    if noise.activation_error == 0.0:
        return "exact"
    if not guilty and noise.own_error < _MOSTLY * noise.activation_error:
        return "error comes from upstream"
    saturated = None if firing is None else firing.share(firing.saturated)
    if noise.clipped > _MOSTLY * noise.own_error:
        often = "" if saturated is None else f" {100 * saturated:.1f} % of the time"
        return f"saturates{often}: more steps, or a higher threshold"
    if saturated is not None and saturated < _NEVER:
        return "rounding, and it never saturates: more steps, or a lower threshold"
    return "rounding: more steps"
