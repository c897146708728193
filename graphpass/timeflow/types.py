"""What a tensor means in time."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

Shape = list[Any]  # int, the name of a symbol, or None where nothing is known


class Kind(enum.StrEnum):
    """How a tensor relates to the T time-steps."""

    STATIC = "static"  # the same at every step: the input and all that hangs on it alone
    CURRENT = "current"  # differs per step; only its mean over time matters
    SPIKES = "spikes"  # a sorted train times a fixed amplitude
    RATE = "rate"  # the mean over time, no time axis


@dataclass(frozen=True)
class TimeType:
    """Type of a tensor in time flow.

    Attributes:
        kind: see `Kind`.
        batch_axis: the axis that the batch lies on, with its outermost factor; time is
            folded there. None when the tensor does not carry the batch.
        channel_axis: the axis of the channels; None when it is lost.
        poolable: a maximum over any axis but the channel axis commutes with the mean
            over time, because it is one train times an amplitude, plus a constant where it
            is a current, which both vary along the channel axis only.
        inner: elements on the batch axis per sample, when a Reshape merged axes into it.
        pair: it is the difference of two trains, of a function that turns.
    """

    kind: Kind
    batch_axis: int | None = None
    channel_axis: int | None = None
    poolable: bool = False
    inner: int = 1
    pair: bool = False

    @property
    def varies(self) -> bool:
        """Does the tensor have a time axis?"""
        return self.kind in (Kind.CURRENT, Kind.SPIKES)


@dataclass(frozen=True)
class Refusal:
    """Why an operator cannot read a time-varying tensor, and what would help.

    Attributes:
        reason: what is in the way.
        remedy: what would help.
        mixes: the operator works across samples, so that what it writes has no batch
            axis, even where nothing varies in time.
    """

    reason: str
    remedy: str
    mixes: bool = False
