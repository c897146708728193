"""The spiking forms of stage 4: the passes that each is made by.

All parallel forms compute the same network. To add one, write its neuron builder or its
passes, and name it here. The serial forms compute the network that they are measured
against: the same thresholds with integrate-and-fire neurons, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphpass.neurons import Carrier, matmul, sorted_trains
from graphpass.passes import quantise_weights
from graphpass.passes.average_time import AverageTime
from graphpass.passes.base import Pass
from graphpass.passes.count_spikes import CountSpikes
from graphpass.passes.emit_spikes import Builder, EmitSpikes
from graphpass.passes.expose_states import ExposeStates
from graphpass.passes.flatten_classifier import FlattenClassifier
from graphpass.passes.fold_amplitude import FoldAmplitude
from graphpass.passes.fuse_rounding import FuseRounding
from graphpass.passes.keep_integer_kernels import KeepIntegerKernels
from graphpass.passes.pool_first import PoolFirst
from graphpass.passes.quantise_weights import QuantiseWeights
from graphpass.passes.repeat_static import RepeatStatic
from graphpass.passes.scan_steps import ScanSteps
from graphpass.passes.spell_scalings import SpellScalings
from graphpass.timeflow import TimeFlow


@dataclass(frozen=True)
class Form:
    """A way to write the network down.

    Attributes:
        carrier: how the neurons' outputs travel.
        passes: from the time flow of stage 3 and T to the passes of stage 4.
        summary: what it is for, in one line.
        oldest_opset: of the ANN.
        most_steps: the largest T.
        same: is it the same network as the other forms, spike by spike?
        prepare: for a form that needs the ranges of currents, the passes that make the
            float network whose currents they are.
    """

    carrier: Carrier
    passes: Callable[[TimeFlow, int], Sequence[Pass]]
    summary: str
    oldest_opset: int = 0
    most_steps: int | None = None
    same: bool = True
    prepare: Callable[[], Sequence[Pass]] | None = None


def _nearest_counts() -> list[Pass]:
    return [CountSpikes(nearest=True), FoldAmplitude(), SpellScalings(), FlattenClassifier()]


def _trains(build: Builder, *, one_row: bool = False) -> Callable[[TimeFlow, int], Sequence[Pass]]:
    return lambda flow, steps: [
        EmitSpikes(flow, build, one_row=one_row),
        RepeatStatic(flow, steps),
        AverageTime(flow, steps),
    ]


FORMS: dict[str, Form] = {
    "matmul": Form(
        Carrier.TRAIN, _trains(matmul.build), "explicit trains, charged by the conversion matrix"
    ),
    "sorted": Form(
        Carrier.TRAIN,
        _trains(sorted_trains.build, one_row=True),
        "explicit trains, charged by one sum",
    ),
    "counts": Form(
        Carrier.COUNT,
        lambda _flow, _steps: [PoolFirst(), CountSpikes(), FoldAmplitude()],
        "spike counts only",
    ),
    "counts-cpu": Form(
        Carrier.COUNT,
        lambda _flow, _steps: [
            PoolFirst(),
            CountSpikes(half_even=True),
            FoldAmplitude(),
            FuseRounding(),
        ],
        "spike counts, rounding fused for ONNX Runtime's CPU kernels",
    ),
    "int8": Form(
        Carrier.COUNT,
        lambda _flow, _steps: [*_nearest_counts(), QuantiseWeights(), KeepIntegerKernels()],
        "spike counts and weights of 8 bits, for fast CPUs; a close network, not the same",
        oldest_opset=quantise_weights.OLDEST_OPSET,
        most_steps=quantise_weights.MOST_STEPS,
        same=False,
        prepare=_nearest_counts,
    ),
}

SERIAL_FORMS: dict[str, Form] = {
    "scan": Form(
        Carrier.SERIAL,
        lambda flow, steps: [ExposeStates(flow), ScanSteps(steps)],
        "all time-steps in one Scan",
    ),
    "step": Form(
        Carrier.SERIAL,
        lambda flow, _steps: [ExposeStates(flow)],
        "one time-step, states as inputs and outputs",
    ),
}

#: The forms of either method.
ALL_FORMS = FORMS | SERIAL_FORMS
