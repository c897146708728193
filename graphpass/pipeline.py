"""Conversion from end to end: the stages in order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from graphpass import stages
from graphpass.calibration import data_free
from graphpass.calibration.extremes import Extremes, record_extremes
from graphpass.calibration.measuring import Measuring, Training
from graphpass.calibration.rules import RULES, Calibration, calibration
from graphpass.calibration.thresholds import record_maximum
from graphpass.consistency import check_stage_file
from graphpass.diagnosis import Diagnosis
from graphpass.diagnosis.conversion import diagnose_conversion
from graphpass.files import check_writable
from graphpass.model import Model, copied, load, save, to_proto
from graphpass.options import Options
from graphpass.passes.recognise_quantiser import RAISED
from graphpass.plan import Activation, Plan, RefusedConversion, make_plan, recorded_verdicts
from graphpass.running import open_session
from graphpass_runtime.data import Dataset
from graphpass_runtime.errors import DataError, ModelError, OptionError, OutputError
from graphpass_runtime.metadata import LARGEST_T, FileRecord, Stage
from graphpass_runtime.model_data import PathLike, find_preprocess, open_model_data
from graphpass_runtime.session import Session

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
        ann: an ONNX file, or a file of ``--stages``.
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
                which depends on it.
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
    run = _Run(ann, model, chosen)
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
        stages.quantise(model, run.need_steps(), run.levels())
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
    return run.result(output)


def plan_conversion(model: Model, **choices: Any) -> Plan:
    """The plan of a normalised model; `choices` are those of `make_plan`.

    Raises:
        RefusedConversion: some node stands in the way.
    """
    plan = make_plan(model, **choices)
    if plan.refused:
        raise RefusedConversion(plan, where=model.name)
    return plan


class _Run:
    """One conversion: the options, and what is opened only when it is needed."""

    def __init__(self, ann: PathLike, model: Model, options: Options) -> None:
        self._ann = ann
        self._model = model
        self._options = options
        self._data: Dataset | None = None
        self._diagnosis: Diagnosis | None = None
        self._start: Model | None = None

    def preprocess_config(self) -> dict[str, Any] | None:
        """Preprocessing to carry in the file: the option, else the sidecar."""
        known = find_preprocess([(self._ann, None)], self._options.preprocess)
        return None if known is None else dict(known.to_config())

    def need_steps(self) -> int:
        """T, from the options or the stage file."""
        steps = self._options.steps or (self._model.record and self._model.record.steps)
        if not steps:
            raise OptionError("no number of time-steps", remedy="give --steps T")
        replace(self._options, steps=int(steps)).check()
        stages.check_form(self._model, self._options.chosen_form, int(steps))
        return int(steps)

    def levels(self) -> Mapping[str, int] | None:
        """Neurons with fewer levels than T: as asked for, else as the network was trained."""
        chosen = self._options
        if chosen.levels is not None or chosen.method != "parallel":
            return chosen.levels
        return stages.own_levels(self._model, self.need_steps())

    def check_same_steps(self) -> None:
        """A stage file from stage 2 on is made for one T."""
        record = self._model.record
        if record and self._options.steps not in (None, record.steps):
            raise OptionError(
                f"the stage file is made for T = {record.steps}, not {self._options.steps}",
                remedy="carry on from 1-clip.onnx, or leave --steps out",
            )
        self.need_steps()

    def maxima(self, plan: Plan) -> Mapping[str, NDArray[np.float32]]:
        """The largest currents of the activations without a bound, measured or estimated."""
        names = stages.unbounded(self._model, plan.rectifiers)
        if names and self._options.data_free:
            return data_free.largest_currents(self._model, names, plan.flow, self._open_session)
        measuring = self.measuring(names)
        if measuring is None:
            return {}
        return record_maximum(self._model, names, plan.flow, measuring)

    def extremes(self, plan: Plan) -> Extremes:
        """The smallest and the largest currents of the activations that are no rectifiers."""
        names = list(plan.functions)
        measuring = self.measuring(names)
        if measuring is None:
            return {}
        currents = stages.read_by_functions(self._model, plan)
        return record_extremes(self._model, currents, measuring)

    def calibration(self) -> Calibration:
        """What finds the neurons of stage 3."""
        if self._options.data_free:
            return partial(data_free.calibrate, open_session=self._open_session)
        measuring = self.measuring(True)
        assert measuring is not None, "asked for"
        return calibration(self._options.calibrate, measuring, self._options.threshold)

    def find_ranges(self) -> None:
        """Measure the currents that the form rounds, unless the stage file knows them."""
        form, model = self._options.chosen_form, self._model
        assert model.record is not None, "every stage has a record"
        if model.record.ranges or not stages.rounds_currents(form):
            return
        missing = stages.without_range(model, form)
        what = f"the ranges of {len(missing)} currents"
        measuring = self.measuring(missing or self._options.data, what)
        if measuring is not None:
            stages.measure_currents(model, form, measuring)

    def keep_start(self) -> None:
        """Keep the network as it is, for the diagnosis, if one is asked for and possible."""
        chosen = self._options
        if chosen.diagnose and chosen.method == "parallel" and chosen.rereadable:
            self._start = copied(self._model)

    def diagnose(self) -> None:
        """Compare the calibrated network with the ANN, if asked for and possible."""
        chosen, record = self._options, self._model.record
        if self._start is None:
            return
        assert record is not None and chosen.data is not None  # noqa: PT018 - asked for, and read
        self._diagnosis = diagnose_conversion(
            self._start,
            [(self._ann, self._start.record)],
            record,
            chosen.data,
            chosen.preprocess,
            self._open_session,
            chosen.progress,
        )

    def measuring(self, wanted: object, what: str | None = None) -> Measuring | None:
        """Data and sessions, if there is something to measure."""
        if not wanted:
            return None
        chosen = self._options
        if chosen.data is None:
            names = wanted if isinstance(wanted, list) else []
            thresholds = (
                f"the thresholds of {len(names)} activations"
                if names
                else f"--calibrate {chosen.calibrate}"
            )
            raise DataError(
                f"calibration data is needed for {what or thresholds}",
                where=self._model.name,
                remedy="give --data" + ("" if names else self._without_data()),
            )
        session = self._open_session(to_proto(self._model))
        if self._data is None:
            self._data = open_model_data(
                chosen.data,
                session.inputs,
                [(self._ann, self._model.record)],
                chosen.preprocess,
                chosen.samples,
            )
        rule = RULES.get(chosen.calibrate, RULES["paper"])
        wanted_batch = chosen.calib_batch or rule.batch_for(stages.largest_tensor(self._model))
        batch = session.batch or wanted_batch
        training = Training(chosen.epochs, chosen.seed, chosen.threads)
        return Measuring(
            self._data, batch, chosen.passes, self._open_session, chosen.progress, training
        )

    def _without_data(self) -> str:
        """What else there is where no threshold is missing."""
        assert self._model.record is not None, "every stage has a record"
        known = [neuron.trained_levels for neuron in self._model.record.neurons]
        most = max((count or 0 for count in known), default=0)
        fits = all(known) and most <= LARGEST_T
        lossless = f", or --steps {most}, which is lossless" if fits else ""
        return lossless + ", or --calibrate none"

    def _open_session(self, net: onnx.ModelProto, extra_outputs: Sequence[str] = ()) -> Session:
        chosen = self._options
        return open_session(
            net,
            provider=chosen.provider,
            threads=chosen.threads,
            file_order=True,
            extra_outputs=extra_outputs,
        )

    def keep_stage(self) -> None:
        """Write the stage file, if a folder was asked for."""
        if self._options.stages is None:
            return
        assert self._model.record is not None, "every stage has a record"
        folder = Path(self._options.stages)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot be made ({error.strerror})",
                where=str(folder),
                remedy="choose another folder for the stages",
            ) from error
        save(self._model, folder / f"{self._model.record.stage}.onnx")

    def result(self, output: PathLike) -> Conversion:
        """What was done."""
        assert self._model.record is not None, "every stage has a record"
        verdicts = recorded_verdicts(self._model)
        return Conversion(os.fspath(output), self._model.record, verdicts, self._diagnosis)
