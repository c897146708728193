"""Which command a hostile file is given to: every one that reads files, with its options."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mutations.base import pick
from mutations.data import hostile_data, hostile_preprocess

from graphpass.forms import FORMS

_HOSTILE_DATA = 0.08  # share of the inputs whose data is hostile too
_FINETUNE = 0.003  # of the conversions, where PyTorch is there: they take a second each
_RULES = ("none", "none", "none", "optimal", "optimal", "paper")
_THRESHOLDS = ("blend", "mse", "max", "percentile", "gaussian")
_STEPS = (["--steps", "4"],) * 10 + (
    ["--steps", "auto", "--budget", "3"],
    ["--max-drop", "5"],
    ["--steps", "1"],
    [],
)
_OPTIONS = (
    ["--islands", "allow"],
    ["--islands", "allow"],
    ["--first-activation", "spiking"],
    ["--rounded-currents", "drop"],
    ["--keep", "/relu1/Relu_output_0"],
    ["--samples", "1"],
    ["--calib-batch", "1"],
    ["--passes", "2"],
    ["--precision", "fp16", "--form", "counts"],
    ["--mean", "0.5", "--std", "0.5"],
)


@dataclass(frozen=True)
class Place:
    """The files of one input.

    Attributes:
        base: what the mutant was made from; data and, of an SNN or a stage file, the ANN and
            another form of the SNN lie beside it.
        mutant: the hostile model, in a folder of its own.
    """

    base: Path
    mutant: Path

    @property
    def output(self) -> Path:
        """Where a conversion goes."""
        return self.mutant.parent.parent / "out" / "snn.onnx"

    @property
    def stages(self) -> Path:
        """Where its stage files go."""
        return self.mutant.parent.parent / "stages"

    @property
    def command(self) -> Path:
        """Where the command is noted, for inputs that it does not come back from."""
        return self.mutant.parent.parent / "command.json"

    @property
    def temporary(self) -> Path:
        """For temporary files."""
        return self.mutant.parent.parent / "tmp"

    @property
    def ann(self) -> Path | None:
        """What the base was converted from; None for an ANN."""
        path = self.base.with_suffix(".ann")
        return path if path.exists() else None


def choose(place: Place, rng: np.random.Generator) -> list[str]:
    """A command that suits the file the mutant was made from, and its arguments."""
    commands = _FOR_ANN if place.ann is None else _FOR_STAGE
    if place.base.stem.startswith("snn"):
        commands = _FOR_SNN
    chances = np.array([chance for chance, _ in commands])
    _, command = commands[int(rng.choice(len(commands), p=chances / chances.sum()))]
    arguments = command(place, rng)
    return [*arguments, "--json"] if rng.random() < 0.2 else arguments


def _inspect(place: Place, rng: np.random.Generator) -> list[str]:
    options = (["--islands", "allow"], ["--first-activation", "spiking"], [], [])
    return ["inspect", str(place.mutant), *pick(options, rng)]


def _evaluate(place: Place, rng: np.random.Generator) -> list[str]:
    models = pick(([place.mutant], [place.mutant, place.base], [place.base, place.mutant]), rng)
    against = ["--reference", str(models[1])] if len(models) > 1 else []
    more = pick(([], [], ["--placement"], ["--batch", "1"]), rng)
    return ["evaluate", str(models[0]), *against, *more, *_run(place, rng)]


def _verify(place: Place, rng: np.random.Generator) -> list[str]:
    """The mutant as the file in question, or as its reference."""
    ann = str(place.ann or place.mutant)
    other = str(place.base.with_name("snn_counts.onnx"))
    pairs = [[ann, place.mutant], [ann, place.mutant], [other, place.mutant], [place.mutant, other]]
    strict = ["--strict"] if rng.random() < 0.2 else []
    return ["verify", *map(str, pick(pairs, rng)), *strict, *_run(place, rng)]


def _diagnose(place: Place, rng: np.random.Generator) -> list[str]:
    other = place.base.with_name("snn_counts.onnx")
    pair = [place.mutant, other] if place.ann is None else [place.ann, place.mutant]
    return ["diagnose", *map(str, pair), *_run(place, rng)]


def _bench(place: Place, rng: np.random.Generator) -> list[str]:
    models = pick(([place.mutant], [place.base, place.mutant]), rng)
    data = _data(place, rng) if rng.random() < 0.5 else []
    return ["bench", *map(str, models), "--repeat", "2", "--batch", "2", "--threads", "1", *data]


def _convert(place: Place, rng: np.random.Generator) -> list[str]:
    form = str(rng.choice([*FORMS, "scan", "step"]))
    chosen = ["--form", form] if form in FORMS else ["--method", "qcfs", "--serial", form]
    rule = "finetune" if _has_torch and rng.random() < _FINETUNE else pick(_RULES, rng)
    chosen += ["--calibrate", rule, *(["--epochs", "1"] if rule == "finetune" else [])]
    if rule == "optimal" and rng.random() < 0.5:
        chosen += ["--threshold", pick(_THRESHOLDS, rng)]
    has_steps = place.ann is not None and rng.random() < 0.9
    small = place.base.stem.startswith("digits")  # a search converts a dozen times
    chosen += [] if has_steps else pick(_STEPS if small else _STEPS[:10], rng)
    while rng.random() < 0.3:
        chosen += pick(_OPTIONS, rng)
    if rng.random() < 0.1:
        chosen += ["--stages", str(place.stages)]
    data = [] if rng.random() < 0.05 else _run(place, rng)
    return ["convert", str(place.mutant), "-o", str(place.output), *chosen, *data]


def _run(place: Place, rng: np.random.Generator) -> list[str]:
    """What running the network on data needs; some of the data is hostile."""
    described = hostile_preprocess(place.mutant, rng) if rng.random() < _HOSTILE_DATA else []
    return [*_data(place, rng), "--threads", "1", *described]


def _data(place: Place, rng: np.random.Generator) -> list[str]:
    path = place.base.with_suffix(".npz")
    hostile = rng.random() < _HOSTILE_DATA
    return ["--data", str(hostile_data(path, place.mutant.parent, rng) if hostile else path)]


_has_torch = importlib.util.find_spec("torch") is not None

_Command = Callable[[Place, np.random.Generator], list[str]]
# Shares of the commands, by what the mutant was made from.
_FOR_ANN: list[tuple[float, _Command]] = [
    (10, _inspect), (4, _evaluate), (1, _verify), (2, _diagnose), (0.5, _bench), (80, _convert),
]  # fmt: skip
_FOR_STAGE: list[tuple[float, _Command]] = [
    (10, _inspect), (5, _evaluate), (20, _verify), (5, _diagnose), (0.5, _bench), (60, _convert),
]  # fmt: skip
_FOR_SNN: list[tuple[float, _Command]] = [
    (10, _inspect), (25, _evaluate), (40, _verify), (15, _diagnose), (1, _bench), (10, _convert),
]  # fmt: skip
