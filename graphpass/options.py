"""The options of a conversion, and which values make sense."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphpass.calibration import optimal
from graphpass.calibration.measuring import Progress
from graphpass.calibration.rules import RULES
from graphpass.forms import FORMS, SERIAL_FORMS
from graphpass_runtime.errors import OptionError
from graphpass_runtime.metadata import Stage
from graphpass_runtime.model_data import Data, PathLike
from graphpass_runtime.neuron import LARGEST_POPULATION, LARGEST_T
from graphpass_runtime.preprocess import Preprocess

THRESHOLDS = optimal.THRESHOLDS
CALIBRATIONS = (*RULES, "none")
FIRST_ACTIVATIONS = ("analog", "spiking")
ROUNDED_CURRENTS = ("auto", "spike", "drop")
ISLANDS = ("forbid", "allow")
PRECISIONS = ("fp32", "fp16")
METHODS = ("parallel", "qcfs")
DEFAULT_POPULATION = 3
DEFAULT_FORM, DEFAULT_SERIAL_FORM = "matmul", "scan"

_SETTLED = {  # by the stage that uses it up
    Stage.NORMALISED: ("rounded_currents",),
    Stage.CLIP: ("first_activation", "keep", "islands"),
    Stage.DAQCFS: ("levels", "population"),
    Stage.CALIBRATED: ("calibrate", "threshold"),
}


@dataclass(frozen=True)
class Options:
    """How to convert; see `graphpass.convert` for the meaning of each."""

    steps: int | None = None
    levels: Mapping[str, int] | None = None
    data: Data | None = None
    samples: int | None = None
    calib_batch: int | None = None
    passes: int = 1
    epochs: int = 8
    seed: int = 0
    preprocess: Preprocess | None = None
    method: str = "parallel"
    form: str | None = None
    serial: str | None = None
    precision: str = "fp32"
    calibrate: str = "optimal"
    threshold: str | None = None
    population: int | None = None
    first_activation: str = "analog"
    keep: Collection[str] = ()
    rounded_currents: str = "auto"
    islands: str = "forbid"
    stages: PathLike | None = None
    diagnose: bool = False
    provider: str = "auto"
    threads: int | None = None
    progress: Progress = lambda _title, _samples: lambda _done: None

    def check(self) -> None:
        """Raise OptionError for values that make no sense whatever the model."""
        if self.steps is not None and not 1 <= self.steps <= LARGEST_T:
            raise OptionError(f"T = {self.steps} time-steps", remedy=f"use 1 to {LARGEST_T}")
        for name, value in (
            ("calib-batch", self.calib_batch),
            ("passes", self.passes),
            ("epochs", self.epochs),
            ("population", self.population),
        ):
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}", remedy="use 1 or more")
        for name, text, known in (
            ("method", self.method, METHODS),
            ("form", self.form or DEFAULT_FORM, tuple(FORMS)),
            ("serial", self.serial or DEFAULT_SERIAL_FORM, tuple(SERIAL_FORMS)),
            ("precision", self.precision, PRECISIONS),
            ("calibrate", self.calibrate, CALIBRATIONS),
            ("threshold", self.threshold or THRESHOLDS[0], THRESHOLDS),
            ("first-activation", self.first_activation, FIRST_ACTIVATIONS),
            ("rounded-currents", self.rounded_currents, ROUNDED_CURRENTS),
            ("islands", self.islands, ISLANDS),
        ):
            if text not in known:
                raise OptionError(f"{name} '{text}' is unknown", remedy=f"use {' or '.join(known)}")
        if self.threshold is not None and self.calibrate != "optimal":
            raise OptionError(
                f"threshold '{self.threshold}' is a rule of --calibrate optimal",
                remedy=f"leave it out: --calibrate {self.calibrate} has its own thresholds",
            )
        if self.chosen_population > LARGEST_POPULATION:
            raise OptionError(
                f"population is {self.population}", remedy=f"use 1 to {LARGEST_POPULATION}"
            )
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}", remedy="use 0 or more")
        if self.calibrate == "finetune" and importlib.util.find_spec("torch") is None:
            raise OptionError(
                "--calibrate finetune needs PyTorch", remedy="pip install graphpass[export]"
            )
        if self.method == "qcfs" and self.form is not None:
            raise OptionError(
                f"form '{self.form}' is one of the parallel method",
                remedy="with --method qcfs, choose --serial scan or --serial step",
            )
        if self.method != "qcfs" and self.serial is not None:
            raise OptionError(
                f"serial '{self.serial}' is one of the method qcfs",
                remedy="add --method qcfs, or choose a --form",
            )

        if self.levels and self.method == "qcfs":
            raise OptionError(
                "serial neurons have all the same number of time-steps",
                remedy="drop --method qcfs, or give one T for all layers",
            )
        if self.precision == "fp16" and self.chosen_form != "counts":
            raise OptionError(
                f"form '{self.chosen_form}' is written in fp32 only",
                remedy="choose --form counts for --precision fp16",
            )

    def check_unsettled(self, stage: Stage | None) -> None:
        """Raise OptionError for what comes too late for a file of this stage.

        Args:
            stage: of the file that the conversion starts from; None for an ANN.
        """
        for name in _settled(stage):
            value = getattr(self, name)
            if value and value != getattr(Options, name):
                raise OptionError(
                    f"--{name.replace('_', '-')} comes too late: a file of stage {stage} has"
                    " settled it",
                    remedy="leave it out, or start from the ANN or an earlier stage",
                )

    @property
    def chosen_population(self) -> int:
        """Neurons for each value, where that pays; the paper has one."""
        default = 1 if self.calibrate in ("paper", "none") else DEFAULT_POPULATION
        return self.population or default

    @property
    def rereadable(self) -> bool:
        """Is there data, and not from a generator, which calibration has used up?"""
        return self.data is not None and not isinstance(self.data, Iterator)

    @property
    def data_free(self) -> bool:
        """Are thresholds to come from the model alone?"""
        return self.data is None and self.threshold == "gaussian"

    @property
    def chosen_form(self) -> str:
        """The form of either method."""
        if self.method == "qcfs":
            return self.serial or DEFAULT_SERIAL_FORM
        return self.form or DEFAULT_FORM


def unsettled(options: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """Options without those that a file of this stage has settled."""
    late = _settled(stage)
    return {name: value for name, value in options.items() if name not in late}


def _settled(stage: Stage | None) -> list[str]:
    earlier = [names for known, names in _SETTLED.items() if stage is not None and known <= stage]
    return list(itertools.chain(*earlier))
