"""DA-QCFS with parameters that learn, and what it is to imitate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphpass.calibration.finetune import rounding
from graphpass.neurons import Neuron, parameters

Activation = Callable[[Tensor], Tensor]


class LearnedNeuron(nn.Module):
    """y = amplitude * n of one layer, as `Neuron` says, with thresholds that learn.

    Three numbers per channel, each 0 at the start and without a unit, so that one step size
    suits all layers: the logarithm of the threshold; the shift, in first thresholds; and the
    logarithm of what the amplitude is beyond threshold / T. Behind the last of them the
    gradient of the threshold is that of LSQ (Esser et al., 2020): round(u) - u inside the
    levels, T above them.

    Args:
        neuron: where to start.
        rank: rank of its current.
    """

    def __init__(self, neuron: Neuron, rank: int) -> None:
        super().__init__()
        self._neuron = neuron
        first = [_beside(a, neuron, rank) for a in (neuron.threshold, neuron.shift)]
        self._threshold, self._shift = first
        self._amplitude = _beside(neuron.amplitude, neuron, rank)
        self.log_threshold = nn.Parameter(torch.zeros_like(self._threshold))
        self.log_amplitude = nn.Parameter(torch.zeros_like(self._threshold))
        self.shift = nn.Parameter(torch.zeros_like(self._threshold))

    def forward(self, current: Tensor) -> Tensor:
        """Mean output over T steps of a current."""
        threshold, shift, amplitude = self._values()
        levels = float(self._neuron.levels)
        gain = levels / threshold
        charge = torch.addcmul(shift * gain, current, gain)
        return amplitude * rounding.spike_count(charge, levels, self._neuron.ties)

    def learned(self) -> Neuron:
        """The neuron with what was learned."""
        with torch.no_grad():
            threshold, shift, amplitude = (_vector(value) for value in self._values())
        return replace(self._neuron, threshold=threshold, shift=shift, amplitude=amplitude)

    def _values(self) -> tuple[Tensor, Tensor, Tensor]:
        growth = self.log_threshold.exp()
        return (
            self._threshold * growth,
            self._shift + self._threshold * self.shift,
            self._amplitude * growth * self.log_amplitude.exp(),
        )


class Reference:
    """What a neuron stands for: Clip(z, 0, theta), or QCFS at the levels it was trained with.

    Args:
        neuron: the neuron of stage 2.
        rank: rank of its current.
    """

    def __init__(self, neuron: Neuron, rank: int) -> None:
        self._threshold = _beside(neuron.threshold, neuron, rank)
        self._levels, self._ties = neuron.trained_levels, neuron.ties

    def __call__(self, current: Tensor) -> Tensor:
        """The analog activation of a current."""
        if self._levels is None:
            return torch.minimum(current.relu(), self._threshold)
        unit = self._threshold / self._levels
        return rounding.spike_count(current / unit, float(self._levels), self._ties) * unit


def _beside(array: NDArray[np.float32], neuron: Neuron, rank: int) -> Tensor:
    return torch.from_numpy(parameters.beside(array, rank, neuron.channel_axis).copy())


def _vector(value: Tensor) -> NDArray[np.float32]:
    return value.numpy().reshape(-1).astype(np.float32)
