"""Conversion from end to end: the stages in order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphpass import stages
from graphpass.calibration.rules import RULES
from graphpass.consistency import check_stage_file
from graphpass.conversion_run import ConversionRun
from graphpass.diagnosis import Diagnosis
from graphpass.files import check_writable
from graphpass.model import Model, load, save
from graphpass.options import Options
from graphpass.passes.recognise_quantiser import RAISED
from graphpass.plan import Plan, RefusedConversion, make_plan
from graphpass.verdicts import Activation, recorded_verdicts
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord, Stage
from graphpass_runtime.model_data import PathLike

_SETTLED = 0.9  # share of a constant error that running means should have recovered


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        output: path of the SNN.
        record: what the SNN says about itself.
        activations: the verdict on every activation.
        diagnosis: which layer lost what, where that was asked for and could be measured.
    """

    output: str
    record: FileRecord
    activations: tuple[Activation, ...]
    diagnosis: Diagnosis | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "output": self.output,
            "steps": self.record.steps,
            "form": self.record.form,
            "calibration": dict(self.record.calibration),
            "activations": [activation.to_json() for activation in self.activations],
            "diagnosis": None if self.diagnosis is None else self.diagnosis.to_json(),
        }

    def advice(self) -> str | None:
        """What there is to know about the calibration, in one line; None if nothing.

        That is what would be better (fewer neurons, or running means that settle), or what
        finetuning came to.
        """
        try:
            return self._advice()
        except (KeyError, TypeError, ValueError):  # of a stage file: it may say anything
            return None

    def _advice(self) -> str | None:
        summary, rounded = self.record.calibration, self._rounded_currents()
        if rounded:
            return (
                f"note: {rounded} rounded currents have {self.record.steps} levels now, fewer than"
                " in the file; --rounded-currents drop leaves them as they are, which is closer"
            )
        if summary.get("rule") == "finetune":
            return (
                f"finetuned: relative squared error of the output {summary['error_before']:.3g} ->"
                f" {summary['error_after']:.3g} on {summary['held_out']} held-out samples, epoch"
                f" {summary['best_epoch']} of {summary['epochs']}"
            )
        if summary.get("rule") != "paper" or summary["recovered"] >= _SETTLED:
            return None
        return (
            f"note: {summary['batches']} batches recover {100 * summary['recovered']:.0f} % of a"
            " constant error (momentum 0.99); more --passes, or a smaller --calib-batch, recover"
            " more"
        )

    def _rounded_currents(self) -> int:
        """How many lost levels."""
        return sum(
            neuron.name.endswith(RAISED) and neuron.levels < (neuron.trained_levels or 0)
            for neuron in self.record.neurons
        )


def convert(ann: PathLike, output: PathLike, **options: Any) -> Conversion:
    """Convert an ANN, or carry on from a stage file, and write the SNN.

    Args:
        ann: an ONNX file, or a file of ``--stages``; options that this has settled are refused.
        output: where the SNN goes; it appears whole or not at all.
        **options: fields of `Options`:

            steps: number of time-steps T, 1 to 1024; a stage file may have it already.
            levels: fewer time-steps for some activations, by name: they fire in their last
                slots only. Not for serial neurons. See `graphpass.convert_allocated`.
            data: calibration data: a path that `graphpass_runtime.data.open_data` reads, or
                an iterable of input dicts. Needed only where something must be measured;
                with the threshold ``gaussian``, BatchNormalizations can take its place.
            samples: use this many samples, spread evenly over the data.
            calib_batch: samples per calibration batch, by default up to 32, 10 with ``paper``,
                which depends on it. Smaller batches of an iterable are joined if the model computes
                every sample by itself (two are run apart and at once to see), larger ones
                stay as they are.
            passes: how often the paper's rule goes through the data.
            preprocess: how images become inputs; by default what the model's metadata or
                its sidecar file says.
            method: ``parallel``, or ``qcfs``: the same thresholds with classical
                integrate-and-fire neurons, the serial network that the parallel one is
                measured against.
            form: of the parallel method, one of `graphpass.forms.FORMS`: ``matmul``
                (explicit trains, as in the paper; the default), ``counts``, ...
            serial: of the method qcfs: ``scan`` (one ONNX Scan over the time-steps; the
                default) or ``step`` (a file of one time-step, which `Session` runs T
                times).
            precision: ``fp32``, or ``fp16`` for GPUs, in the form ``counts`` only: not the
                same network, but a close one. Its inputs and outputs stay float32.
            epochs: how often ``finetune`` goes through the data at most.
            seed: of the random numbers of ``finetune``, 0 or more.
            calibrate: ``optimal`` (thresholds and amplitudes in closed form, matched
                currents), ``finetune`` (from there on, distillation of the ANN: weights
                change; needs PyTorch), ``paper`` (running means) or ``none`` (maximum
                thresholds).
            threshold: with ``optimal``, the rule of thresholds: ``blend`` (the default),
                between ``mse`` (least squared error) and ``max``, chosen by trial;
                ``percentile`` (99.9 % of the positive currents stay below); or ``gaussian``
                (least squared error for a normal current; the only one without data).
            population: neurons for each value, 1 to 16, where more of them help most for
                what they cost (`graphpass.populations`): over residual connections, and in
                layers whose rounding reaches the output (measured, where there is data), up
                to a quarter more synaptic operations for each neuron beyond the first. 3 by
                default, 1 with ``paper`` and ``none``.
            first_activation: ``analog`` or ``spiking``.
            keep: names of activations that stay analog.
            rounded_currents: of quantised networks, what becomes of currents that are
                rounded in front of a sum: ``spike`` (the same network, when T is its number
                of levels), ``drop`` (better at small T), ``auto`` (``spike`` if T is enough).
            islands: ``forbid``, or ``allow``: operators that spikes cannot pass compute on
                rates, and their results are the same at every step; with the method qcfs,
                they read the mean over the steps so far.
            stages: folder for the stage files 0 to 4.
            diagnose: also find out which layer lost what (`graphpass.diagnose`), on a few
                of the samples; the command line asks for it.
            provider: what calibration runs on: ``auto``, ``cpu`` or ``cuda``.
            threads: threads for calibration.
            progress: called with a title and a number of samples when a pass over the
                data starts; what it returns is told the samples of each batch.

    Raises:
        GraphpassError: bad input of any kind; nothing is written then.
        RefusedConversion: the network cannot be converted exactly; carries the plan.
    """
    chosen = Options(**options)
    chosen.check()
    check_writable(Path(output))
    model = load(ann)
    start = model.record.stage if model.record else None
    if start is Stage.SPIKING:
        raise ModelError(
            "is an SNN already", where=model.name, remedy="give the ANN, or a stage file"
        )
    check_stage_file(model)
    chosen.check_unsettled(start)
    run = ConversionRun(ann, model, chosen)
    if start is None:
        carried = run.preprocess_config()
        stages.normalise(model, carried, chosen.rounded_currents, chosen.steps)
        run.keep_stage()
    if start in (None, Stage.NORMALISED, Stage.CLIP):
        run.keep_start()
    if start in (None, Stage.NORMALISED):
        plan = plan_conversion(
            model,
            keep=chosen.keep,
            first_activation=chosen.first_activation,
            islands=chosen.islands,
        )
        run.need_steps()
        stages.bound(model, plan, run.maxima(plan), run.extremes(plan))
        run.keep_stage()
    if start in (None, Stage.NORMALISED, Stage.CLIP):
        stages.quantise(
            *(model, run.need_steps(), run.levels(), chosen.chosen_population),
            run.sensitivities,
        )
        run.keep_stage()
    if start is not Stage.CALIBRATED:
        wanted = chosen.calibrate in RULES and not stages.lossless(model)
        rule = chosen.calibrate if wanted else "none"
        stages.calibrate(model, rule, run.calibration() if wanted else None)
        run.find_ranges()
        run.keep_stage()
    run.check_same_steps()
    run.find_ranges()
    run.diagnose()
    stages.emit(model, chosen.chosen_form, chosen.precision)
    run.keep_stage()
    save(model, output)
    assert model.record is not None, "every stage has a record"
    return Conversion(os.fspath(output), model.record, recorded_verdicts(model), run.diagnosis)


def plan_conversion(model: Model, **choices: Any) -> Plan:
    """The plan of a normalised model; `choices` are those of `make_plan`.

    Raises:
        RefusedConversion: some node stands in the way.
    """
    plan = make_plan(model, **choices)
    if plan.refused:
        raise RefusedConversion(plan, where=model.name)
    return plan
