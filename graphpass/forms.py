"""The spiking forms of stage 4: the passes that each is made by.

All forms compute the same network. To add one, write its neuron builder or its passes,
and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphpass.neurons import Carrier, matmul, sorted_trains
from graphpass.passes.average_time import AverageTime
from graphpass.passes.base import Pass
from graphpass.passes.count_spikes import CountSpikes
from graphpass.passes.emit_spikes import Builder, EmitSpikes
from graphpass.passes.fold_amplitude import FoldAmplitude
from graphpass.passes.pool_first import PoolFirst
from graphpass.passes.repeat_static import RepeatStatic
from graphpass.timeflow import TimeFlow


@dataclass(frozen=True)
class Form:
    """A way to write the network down.

    Attributes:
        carrier: how the neurons' outputs travel.
        passes: from the time flow of stage 3 and T to the passes of stage 4.
        summary: what it is for, in one line.
    """

    carrier: Carrier
    passes: Callable[[TimeFlow, int], Sequence[Pass]]
    summary: str


def _trains(build: Builder) -> Callable[[TimeFlow, int], Sequence[Pass]]:
    return lambda flow, steps: [
        EmitSpikes(flow, build),
        RepeatStatic(flow, steps),
        AverageTime(flow, steps),
    ]


FORMS: dict[str, Form] = {
    "matmul": Form(
        Carrier.TRAIN, _trains(matmul.build), "explicit trains, charged by the conversion matrix"
    ),
    "sorted": Form(
        Carrier.TRAIN, _trains(sorted_trains.build), "explicit trains, charged by one sum"
    ),
    "counts": Form(
        Carrier.COUNT,
        lambda _flow, _steps: [PoolFirst(), CountSpikes(), FoldAmplitude()],
        "spike counts only",
    ),
}
