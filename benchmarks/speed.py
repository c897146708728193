"""Speed and memory of every form beside the ANN, ORT's own int8 and serial neurons.

    python benchmarks/speed.py --shared ../shared/data > benchmarks/results/DATE-speed.md

All sides of a row are timed in one run, in turn, without spinning; a cell is the median
over rounds of the ratio within a round. Thresholds come from the largest activations of
a few samples (`--calibrate none`), for speed does not depend on what they are.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from resnet18 import write_resnet18
from shared_models import MODELS, shared_folder
from static_int8 import write_static_int8

from graphpass import Session, bench, convert
from graphpass.forms import FORMS, SERIAL_FORMS
from graphpass.neurons import Carrier
from graphpass_runtime.benchmark import random_feeds
from graphpass_runtime.errors import GraphpassError
from graphpass_runtime.model_data import open_model_data
from graphpass_runtime.peak_memory import peak_memory

NAMES = (
    "resnet18",
    "resnet20_cifar10",
    "resnet56_cifar10",
    "mobilenet_v2_1.0_224_imagenet",
    "squeezenet1.1_imagenet",
)
_SAMPLES, _CALIBRATION_BATCH = 16, 4
_TRAINS = [name for name, form in FORMS.items() if form.carrier is Carrier.TRAIN]
_COUNTS = [name for name, form in FORMS.items() if form.carrier is not Carrier.TRAIN]
_QDQ = "ORT int8"


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only models whose names contain one of A,B,...")
@click.option("--steps", default=32, show_default=True, help="T.")
@click.option("--batches", default="1,8", show_default=True, help="Batch sizes.")
@click.option("--threads", default=2, show_default=True, help="Threads of every side.")
@click.option("--repeat", default=20, show_default=True, help="Rounds.")
@click.option("--seconds", default=20.0, show_default=True, help="Time for one side and row.")
def main(
    shared: str | None,
    models: str,
    steps: int,
    batches: str,
    threads: int,
    repeat: int,
    seconds: float,
) -> None:
    """Print the table, a row as soon as it is measured."""
    logging.disable(logging.WARNING)  # ORT's quantiser comments on every node
    folder = shared_folder(shared)
    limits = {"threads": threads, "repeat": repeat, "seconds": seconds}
    print(
        f"onnxruntime {onnxruntime.__version__}, {platform.machine()}, {threads} threads,"
        f" T = {steps}. Latency: counts, int8 and serial as multiples of the ANN's, trains of T"
        " times the ANN's. Memory: peak, as multiples of the ANN's.\n"
    )
    columns = _columns()
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            if any(part in name for part in models.split(",")):
                sides = _make(name, folder, Path(scratch), steps)
                for batch in map(int, batches.split(",")):
                    cells = dict(_row(sides, batch, steps, limits))
                    values = [name, str(batch), *(cells.get(column, "-") for column in columns[2:])]
                    print("| " + " | ".join(values) + " |", flush=True)


def _columns() -> list[str]:
    serial = [f"serial {name}" for name in SERIAL_FORMS]
    derived = [f"serial / {name}" for name in [*_COUNTS, *_TRAINS]]
    against = [f"{name} / {_QDQ}" for name in _COUNTS if name == "int8"]
    trains = [f"{name} / T" for name in _TRAINS]
    memory = [f"memory {name}" for name in [*_COUNTS, _QDQ]]
    head = ["model", "batch", "ANN ms"]
    return [*head, *_COUNTS, _QDQ, *against, *trains, *serial, *derived, *memory]


@dataclass(frozen=True)
class _Sides:
    """The files of a row: the ANN, and what is measured against it, by column."""

    ann: Path
    others: dict[str, Path]


def _make(name: str, shared: Path, scratch: Path, steps: int) -> _Sides:
    ann, data = _ann(name, shared, scratch)
    stages = scratch / f"{name}-stages"
    others: dict[str, Path] = {}

    def emit(column: str, source: Path, **options: Any) -> None:
        path = scratch / f"{name}-{column}.onnx".replace(" ", "-")
        try:
            convert(source, path, **options)
        except GraphpassError as error:  # one form that does not exist leaves its cells empty
            print(f"<!-- {name}, {column}: {error} -->", flush=True)
        else:
            others[column] = path

    convert(
        *(ann, scratch / "unused.onnx"),
        **{"steps": steps, "data": data, "calibrate": "none", "form": "counts"},
        stages=stages,
    )
    last = stages / "3-calibrated.onnx"
    for form in FORMS:
        emit(form, last, form=form, data=data)
    for form in SERIAL_FORMS:
        emit(f"serial {form}", last, method="qcfs", serial=form)
    others[_QDQ] = write_static_int8(ann, data, scratch / f"{name}-qdq.onnx")
    return _Sides(ann, others)


def _ann(name: str, shared: Path, scratch: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The ANN, and batches to calibrate on: of its own images, or random for random weights."""
    if name == "resnet18":
        ann = write_resnet18(scratch / "resnet18.onnx")
        inputs = Session(ann, threads=2).inputs
        seeds = range(_SAMPLES // _CALIBRATION_BATCH)
        return ann, [random_feeds(inputs, _CALIBRATION_BATCH, seed=seed) for seed in seeds]
    model = next(model for model in MODELS if model.name == name)
    ann, calibration, _ = model.paths(shared)
    source = open_model_data(
        calibration, Session(ann, threads=2).inputs, [(ann, None)], samples=_SAMPLES
    )
    return ann, [dict(batch.feeds) for batch in source.batches(_CALIBRATION_BATCH)]


def _row(
    sides: _Sides, batch: int, steps: int, limits: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    paths = [sides.ann, *sides.others.values()]
    result = bench(paths, batches=[batch], memory=False, provider="cpu", **limits)
    first, *rest = result.measurements
    ratio = {column: m.ratio for column, m in zip(sides.others, rest, strict=True)}
    yield "ANN ms", f"{first.median_ms:.2f}"
    for column, value in ratio.items():
        if column in _TRAINS:
            yield f"{column} / T", f"{value / steps:.2f}"
        else:
            yield column, f"{value:.2f}"
    if "int8" in ratio:
        yield f"int8 / {_QDQ}", f"{ratio['int8'] / ratio[_QDQ]:.2f}"
    serial = [value for column, value in ratio.items() if column.startswith("serial ")]
    for form in [*_COUNTS, *_TRAINS]:
        if serial and form in ratio:
            yield f"serial / {form}", f"{min(serial) / ratio[form]:.2f}"
    feeds = random_feeds(Session(sides.ann, threads=1).inputs, batch)
    own = _memory(sides.ann, feeds, limits["threads"])
    for column in [*_COUNTS, _QDQ]:
        if column in sides.others:
            yield (
                f"memory {column}",
                f"{_memory(sides.others[column], feeds, limits['threads']) / own:.2f}",
            )


def _memory(path: Path, feeds: dict[str, Any], threads: int) -> float:
    peak = peak_memory(path, feeds, threads=threads)
    return float("nan") if peak is None else float(np.maximum(peak, 1))


if __name__ == "__main__":
    main()
