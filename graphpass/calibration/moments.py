"""Mean and spread of currents, per channel, merged batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
#: Neuron name -> mean, and mean of squares, of its current on one batch, float32 ``[C]``.
RawMoments = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread (standard deviation) of a current, float64 ``[C]``."""

    mean: Vector
    spread: Vector


class MomentSums:
    """Averages of batch moments, merged in batch order in float64."""

    def __init__(self) -> None:
        self._mean: Vector | float = 0.0
        self._square: Vector | float = 0.0
        self._count = 0

    def add(self, mean: NDArray[Any], square: NDArray[Any]) -> None:
        """Add a batch: its mean, and the mean of its squares."""
        self._mean = self._mean + mean.astype(np.float64)
        self._square = self._square + square.astype(np.float64)
        self._count += 1

    def moments(self) -> Moments:
        """Of all batches together."""
        mean = np.asarray(self._mean) / self._count
        with np.errstate(invalid="ignore"):  # squares that overflowed: no spread is known
            variance = np.asarray(self._square) / self._count - mean**2
        return Moments(mean, np.sqrt(np.maximum(variance, 0.0)))


def averaged(batches: Iterable[RawMoments]) -> dict[str, Moments]:
    """The moments of every current over these batches together."""
    sums: dict[str, MomentSums] = {}
    for batch in batches:
        for name, moments in batch.items():
            sums.setdefault(name, MomentSums()).add(*moments)
    return {name: found.moments() for name, found in sums.items()}
