"""Accuracy of the SNN beside the ANN's: models x rules x T.

    python benchmarks/accuracy.py --shared ../shared/data > benchmarks/results/DATE-accuracy.md
    python benchmarks/plot_accuracy.py benchmarks/results/DATE-accuracy.md -o accuracy.svg

Calibrated on the training images only, tested on all test images, in the form `counts`
(the same network as `matmul`; `verify` says so). Beside the rules stands the capacity twin,
what the same ANN keeps as a quantised network that does not spike: `ORT int8` is ONNX
Runtime's static quantisation to 8 bits, whatever T; `low-bit` rounds activations only, to
ceil(log2(T + 1)) bits (`composition.write_low_bit`). `single` is `optimal` with one neuron
for each value everywhere.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy
import onnx
import onnxruntime
from composition import Composition, write_low_bit
from shared_models import MODELS, WITH_STATISTICS, SharedModel, shared_folder
from static_int8 import write_static_int8

from graphpass import Session, convert, evaluate
from graphpass_runtime.errors import GraphpassError
from graphpass_runtime.model_data import open_model_data

#: Options of `convert`, by the name of the rule.
RULES: dict[str, Mapping[str, Any]] = {
    "none": {"calibrate": "none"},
    "paper": {"calibrate": "paper"},
    "optimal": {},
    "single": {"population": 1},
    **{name: {"threshold": name} for name in ("max", "percentile", "mse", "gaussian")},
    "data-free": {"threshold": "gaussian", "data": None},
    "finetune": {"calibrate": "finetune"},
}
LOW_BIT, STATIC_INT8 = "low-bit", "ORT int8"
_DEFAULT = ("none", "paper", "optimal", LOW_BIT, STATIC_INT8)
_INT8_BATCH = 16


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only models whose names contain one of A,B,...")
@click.option("--steps", default="2,4,8,16,32,64", show_default=True, help="Values of T.")
@click.option("--samples", default=1000, show_default=True, help="Calibration images at most.")
@click.option("--rules", default=",".join(_DEFAULT), show_default=True, help="Rules, twins.")
def main(shared: str | None, models: str, steps: str, samples: int, rules: str) -> None:
    """Print the table, a row as soon as it is measured."""
    logging.disable(logging.WARNING)  # ORT's quantiser comments on every node
    folder = shared_folder(shared)
    times = [int(value) for value in steps.split(",")]
    print(f"{versions()}, accuracy in %, at most {samples} calibration images\n")
    print("| model | rule | ANN | " + " | ".join(f"T={t}" for t in times) + " |")
    print("|---" * (3 + len(times)) + "|", flush=True)
    for model in (*MODELS, *WITH_STATISTICS):
        if any(part in model.name for part in models.split(",")):
            with tempfile.TemporaryDirectory() as scratch:
                bench = _Bench(model, folder, samples, Path(scratch))
                own = accuracy(model.paths(folder)[0], model, folder)
                for rule in rules.split(","):
                    try:
                        cells = list(bench.row(rule, times))
                    except GraphpassError as error:  # a rule that the model does not allow
                        print(f"<!-- {model.name}, {rule}: {error} -->", flush=True)
                    else:
                        print("| " + " | ".join([model.name, rule, own, *cells]) + " |", flush=True)


def versions() -> str:
    """What a table was measured with."""
    return (
        f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, numpy {numpy.__version__}"
    )


def accuracy(path: Path, model: SharedModel, folder: Path) -> str:
    """Accuracy of a network on the model's test images, in %."""
    ann, _, test = model.paths(folder)
    session = Session(path)
    data = open_model_data(test, session.inputs, [(ann, None)])
    found = evaluate(session, data, batch=50).accuracy
    assert found is not None, "the shared test data has labels"
    return f"{100 * found:.2f}"


class _Bench:
    """One model: its networks, by rule and T."""

    def __init__(self, model: SharedModel, folder: Path, samples: int, scratch: Path) -> None:
        self._model, self._folder, self._samples = model, folder, samples
        self._ann, self._data, _ = model.paths(folder)
        self._snn, self._stages = scratch / "snn.onnx", scratch / "stages"

    def row(self, rule: str, times: list[int]) -> Iterator[str]:
        """Accuracy for every T."""
        measure = partial(accuracy, model=self._model, folder=self._folder)
        if rule == STATIC_INT8:
            yield from [measure(self._static_int8())] * len(times)
            return
        start, clip = self._ann, self._stages / "1-clip.onnx"
        if rule == LOW_BIT:
            self._convert(start, times[0], calibrate="none")
        for steps in times:
            if rule == LOW_BIT:
                composition = Composition(self._ann, clip, self._data, self._samples)
                write_low_bit(composition, steps, self._snn)
            else:
                self._convert(start, steps, **RULES[rule])
                start = clip  # thresholds up to here do not depend on T
            yield measure(self._snn)

    def _convert(self, start: Path, steps: int, **options: Any) -> None:
        paper = options.get("calibrate") == "paper"
        common: dict[str, Any] = {
            "data": self._data,
            "samples": self._samples,
            "calib_batch": self._model.calib_batch if paper else None,
            "passes": self._model.passes,
            "stages": self._stages,
        }
        convert(start, self._snn, steps=steps, form="counts", **common | options)

    def _static_int8(self) -> Path:
        inputs = Session(self._ann).inputs
        data = open_model_data(self._data, inputs, [(self._ann, None)], samples=self._samples)
        batches = (dict(batch.feeds) for batch in data.batches(_INT8_BATCH))
        return write_static_int8(self._ann, batches, self._snn)


if __name__ == "__main__":
    main()
