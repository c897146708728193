"""What the stages of one conversion ask for: options, data, measurements, files to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from graphpass.consistency import check_fed
from graphpass.diagnosis import Diagnosis
from graphpass.diagnosis.conversion import diagnose_conversion
from graphpass.model import Model, copied, save, to_proto
from graphpass.options import Options
from graphpass.plan import Plan
from graphpass.running import open_session
from graphpass_runtime.batch import Batch
from graphpass_runtime.data import Dataset
from graphpass_runtime.errors import DataError, OptionError, OutputError
from graphpass_runtime.feeds import batch_inputs
from graphpass_runtime.independence import samples_are_independent
from graphpass_runtime.model_data import PathLike, find_preprocess, open_model_data
from graphpass_runtime.neuron import LARGEST_T
from graphpass_runtime.session import Session


class ConversionRun:
    """The options of one conversion, its model, and what is opened only when it is needed.

    Attributes:
        diagnosis: which layer lost what, once `diagnose` found it.
    """

    def __init__(self, ann: PathLike, model: Model, options: Options) -> None:
        self._ann = ann
        self._model = model
        self._options = options
        self._data: Dataset | None = None
        self._fixed_batch: int | None = None
        self._independent: bool | None = None
        self.diagnosis: Diagnosis | None = None
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

    def sensitivities(self) -> Mapping[str, float]:
        """How much each activation's rounding matters, where that can be measured."""
        if not self._options.rereadable:
            return {}
        measuring = self.measuring(True)
        assert measuring is not None, "asked for"
        return stages.measure_sensitivities(self._model, measuring)

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
        self.diagnosis = diagnose_conversion(
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
        if self._data is None:
            proto = to_proto(self._model)
            session = self._open_session(proto)
            self._data = open_model_data(
                chosen.data,
                session.inputs,
                [(self._ann, self._model.record)],
                chosen.preprocess,
                chosen.samples,
            )
            check_fed(self._model, self._data)
            batched, self._fixed_batch = batch_inputs(session.inputs)
            if self._fixed_batch is None:
                self._data = self._data.merged(batched, partial(self._may_join, proto))
        rule = RULES.get(chosen.calibrate, RULES["paper"])
        wanted_batch = chosen.calib_batch or rule.batch_for(stages.largest_tensor(self._model))
        batch = self._fixed_batch or wanted_batch
        training = Training(chosen.epochs, chosen.seed, chosen.threads)
        return Measuring(
            *(self._data, batch, chosen.passes, self._open_session, chosen.progress, training),
            batch_fixed=self._fixed_batch is not None,
        )

    def _may_join(self, net: onnx.ModelProto, *batches: Batch) -> bool:
        """Asked in every pass over the data, answered once."""
        if self._independent is None:
            opened = partial(self._open_session, net)
            self._independent = samples_are_independent(opened, *batches)
        return self._independent

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
