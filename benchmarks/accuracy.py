"""Accuracy of the SNN beside the ANN's: models x T x calibration rule.

    python benchmarks/accuracy.py --shared ../shared/data > benchmarks/results/DATE-accuracy.md

Calibrated on the training images only, tested on all test images, in the form `counts`
(the same network as `matmul`; `verify` says so).
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import onnxruntime
from shared_models import MODELS, SharedModel, shared_folder

from graphpass import Session, convert, evaluate
from graphpass_runtime.model_data import open_model_data

RULES = ("none", "paper", "optimal")


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only models whose names contain one of A,B,...")
@click.option("--steps", default="2,4,8,16,32", show_default=True, help="Values of T.")
@click.option("--samples", default=1000, show_default=True, help="Calibration images at most.")
@click.option("--rules", default=",".join(RULES), show_default=True, help="Calibration rules.")
def main(shared: str | None, models: str, steps: str, samples: int, rules: str) -> None:
    """Print the table, a row as soon as it is measured."""
    folder = shared_folder(shared)
    times = [int(value) for value in steps.split(",")]
    print(
        f"onnxruntime {onnxruntime.__version__}, CPU {platform.machine()}, accuracy in %,"
        f" at most {samples} calibration images\n"
    )
    print("| model | rule | ANN | " + " | ".join(f"T={t}" for t in times) + " |")
    print("|---" * (3 + len(times)) + "|", flush=True)
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            for rule in rules.split(","):
                for row in _rows(model, folder, times, rule, samples):
                    print(row, flush=True)


def _rows(
    model: SharedModel, folder: Path, times: list[int], rule: str, samples: int
) -> Iterator[str]:
    ann, calibration, _ = model.paths(folder)
    cells = [model.name, rule, _accuracy(ann, model, folder)]
    with tempfile.TemporaryDirectory() as scratch:
        snn, kept = Path(scratch) / "snn.onnx", Path(scratch) / "stages"
        start = ann
        for steps in times:
            convert(
                start,
                snn,
                steps=steps,
                data=calibration,
                samples=samples,
                calib_batch=model.calib_batch if rule == "paper" else None,
                passes=model.passes,
                calibrate=rule,
                form="counts",
                stages=kept,
            )
            start = kept / "1-clip.onnx"  # thresholds do not depend on T here
            cells.append(_accuracy(snn, model, folder))
    yield "| " + " | ".join(cells) + " |"


def _accuracy(path: Path, model: SharedModel, folder: Path) -> str:
    ann, _, test = model.paths(folder)
    session = Session(path)
    data = open_model_data(test, session.inputs, [(ann, None)])
    accuracy = evaluate(session, data, batch=50).accuracy
    assert accuracy is not None, "the shared test data has labels"
    return f"{100 * accuracy:.2f}"


if __name__ == "__main__":
    main()
