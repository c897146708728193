"""How far a layer of the SNN is from the ANN's, summed over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass.diagnosis.substitution import View
from graphpass_runtime.output_error import energy

_FAINT = 1e-12  # of the error: what the signal counts for where there is none


@dataclass
class Firing:
    """How a layer fires.

    Attributes:
        levels: the most that a neuron can fire.
        neurons: neurons times samples.
        spikes: of all of them.
        saturated: how many fired `levels` times.
        silent: how many did not fire.
    """

    levels: int
    neurons: int = 0
    spikes: int = 0
    saturated: int = 0
    silent: int = 0

    def add(self, counts: NDArray[Any]) -> None:
        """Add a batch of spike counts."""
        self.neurons += counts.size
        # Behind weights that overflow, a count may be no number: it is no spike.
        self.spikes += int(np.nan_to_num(counts).sum(dtype=np.float64))
        self.saturated += int((counts == self.levels).sum())
        self.silent += int((counts == 0).sum())

    def share(self, what: int) -> float:
        """A number of neurons as a share of all."""
        return what / max(1, self.neurons)

    @property
    def rate(self) -> float:
        """Spikes per neuron and time-step that it may fire in."""
        return self.spikes / max(1, self.neurons * self.levels)


@dataclass
class Noise:
    """Energies (sums of squares) of one layer.

    Attributes:
        current: of the ANN's current.
        current_error: of the SNN's current less the ANN's.
        activation: of the ANN's activation.
        activation_error: of the SNN's activation less the ANN's.
        own_error: of what the neuron makes of the ANN's current, less the ANN's activation:
            the error that this layer would add to a perfect input.
        clipped: the part of `own_error` where the neuron fires at every step.
    """

    current: float = 0.0
    current_error: float = 0.0
    activation: float = 0.0
    activation_error: float = 0.0
    own_error: float = 0.0
    clipped: float = 0.0

    @np.errstate(over="ignore", invalid="ignore")  # currents that are not finite
    def add(self, ann: View, snn: View, levels: int) -> None:
        """Add a batch, seen with all neurons off and with all of them on."""
        self.current += energy(ann.current)
        self.current_error += energy(snn.current - ann.current)
        self.activation += energy(ann.ann)
        self.activation_error += energy(snn.snn - ann.ann)
        own = ann.snn - ann.ann
        self.own_error += energy(own)
        self.clipped += energy(own[ann.counts == levels])

    @property
    def own(self) -> float:
        """Own error relative to the activation."""
        return self.own_error / (self.activation or self.own_error or 1.0)


def decibels(signal: float, error: float) -> float | None:
    """Signal-to-error ratio in dB, at least -120; None where there is no finite error."""
    if error == 0.0 or not math.isfinite(signal + error):
        return None
    return 10.0 * math.log10(max(signal, _FAINT * error) / error)
