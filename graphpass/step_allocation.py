"""Time-steps for each layer: more where they matter, at the same mean.

What a layer adds to the error of the output is measured on the ANN with that layer alone
spiking, for each of some numbers of steps. Layers are taken to add up, which they do not
quite. A step costs the work that its spikes set off (`graphpass.fanout`), and the budget is
the mean of the steps weighted by it. From the fewest steps everywhere, the layer whose error
falls most for its cost gets more, as long as the budget lasts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graphpass import fanout
from graphpass.diagnosis.substitution import Substitution, load_ann
from graphpass.diagnosis.survey import output_errors
from graphpass.model import infer_shapes, load
from graphpass.options import Options, unsettled
from graphpass.pipeline import Conversion, convert
from graphpass.running import open_session
from graphpass_runtime.errors import ModelError, OptionError
from graphpass_runtime.metadata import Stage
from graphpass_runtime.model_data import PathLike, open_model_data
from graphpass_runtime.neuron import LARGEST_T

# Of the budget: steps to choose from. A train is as long as the largest.
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_CALIBRATION = 128  # samples that neurons are calibrated on to measure their layers
_SAMPLES = 32  # samples that a layer's error is measured on

#: Layer -> steps -> squared error of the output, relative to its energy.
Sensitivities = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Allocation:
    """Time-steps for each layer.

    Attributes:
        budget: the mean that was allowed.
        mean: the mean of `steps`, weighted by `work`.
        steps: by activation.
        work: MACs per sample that each layer's spikes set off at one step.
        errors: by activation, then by steps: the squared error of the outputs with this
            layer alone spiking, relative to their energy.
    """

    budget: float
    mean: float
    steps: dict[str, int]
    work: dict[str, int]
    errors: dict[str, dict[int, float]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def convert_allocated(
    ann: PathLike, output: PathLike, budget: float, **options: Any
) -> tuple[Conversion, Allocation]:
    """Convert an ANN with time-steps of its own for every layer.

    Args:
        ann: an ONNX file, or one of stage 0 or 1.
        output: where the SNN goes.
        budget: mean of the steps, weighted by the work that they set off.
        **options: those of `graphpass.convert`, without `steps`; `data` is needed.

    Raises:
        OptionError: options that contradict each other.
        GraphpassError: as `graphpass.convert`.
    """
    chosen = Options(**options)
    chosen.check()
    if chosen.steps is not None or chosen.levels is not None:
        raise OptionError("--steps auto chooses the time-steps", remedy="give --budget alone")
    if not 1.0 <= budget <= LARGEST_T:
        raise OptionError(f"budget is {budget:g} steps", remedy=f"use 1 to {LARGEST_T}")
    if not chosen.rereadable:
        raise OptionError(
            "--steps auto measures every layer", remedy="give --data that can be read again"
        )
    if chosen.method == "qcfs":
        raise OptionError(
            "serial neurons have all the same number of time-steps",
            remedy="give one --steps T for all layers",
        )
    errors, work = _measure(ann, budget, chosen, options)
    steps = allocate(errors, work, budget)
    mean = _mean(steps, work)
    result = convert(ann, output, **options | {"steps": max(steps.values()), "levels": steps})
    return result, Allocation(budget, mean, steps, work, errors)


def allocate(errors: Sensitivities, work: Mapping[str, int], budget: float) -> dict[str, int]:
    """Choose steps: greedily by what the error falls for its cost.

    Args:
        errors: what each layer adds, for every choice of steps.
        work: cost of a step, by layer.
        budget: the mean cost allowed, in steps.

    Returns:
        Steps by layer, with a mean of at most the budget, if the fewest are within it.
    """
    steps = {name: min(choices) for name, choices in errors.items()}
    left = budget * sum(work.values()) - sum(work[name] * steps[name] for name in steps)
    while True:
        best: tuple[float, str, int] | None = None
        for name, choices in errors.items():
            for more in [count for count in choices if count > steps[name]]:
                cost = work[name] * (more - steps[name])
                gain = choices[steps[name]] - choices[more]
                if gain > 0.0 and cost <= left and (best is None or gain / max(cost, 1) > best[0]):
                    best = gain / max(cost, 1), name, more
        if best is None:
            return steps
        _, name, more = best
        left -= work[name] * (more - steps[name])
        steps[name] = more


def _mean(steps: Mapping[str, int], work: Mapping[str, int]) -> float:
    total = sum(work.values())
    return sum(work[name] * steps[name] for name in steps) / total if total else 0.0


def _measure(
    ann: PathLike, budget: float, chosen: Options, options: Mapping[str, Any]
) -> tuple[dict[str, dict[int, float]], dict[str, int]]:
    """What every layer adds at every choice of steps, and the work of each layer."""
    choices = sorted({max(1, round(budget * factor)) for factor in FACTORS})
    open_run = partial(open_session, provider=chosen.provider, threads=chosen.threads)
    errors: dict[str, dict[int, float]] = {}
    work: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stages = Path(scratch)
        start = ann
        few = min(_CALIBRATION, chosen.samples or _CALIBRATION)
        given = {"samples": few, "stages": stages, "form": "counts", "precision": "fp32"}
        for steps in choices:
            trial = dict(options) | given | {"steps": steps, "diagnose": False}
            record = convert(start, stages / "snn.onnx", **trial).record
            if record.calibration.get("rule") == "finetune":
                raise ModelError(
                    "has weights that are no longer the ANN's", remedy="use another --calibrate"
                )
            start, options = stages / "1-clip.onnx", unsettled(options, Stage.CLIP)
            model = load_ann(start)
            net = Substitution(model, record.neurons, open_run)
            assert chosen.data is not None, "checked before"
            data = open_model_data(
                chosen.data, net.inputs, [(ann, record)], chosen.preprocess, _SAMPLES
            )
            advance = chosen.progress(f"every layer alone, T = {steps}", data.samples)
            found = output_errors(net, data, [[name] for name in net.neurons], advance)
            for name, error in zip(net.neurons, found.errors, strict=True):
                errors.setdefault(name, {})[steps] = error / found.energy
        calibrated = load(stages / "3-calibrated.onnx")
        infer_shapes(calibrated)
        per_spike = fanout.synaptic_work(calibrated, list(errors))
        work = {name: net.neurons[name].members * macs for name, macs in per_spike.items()}
    return errors, work
