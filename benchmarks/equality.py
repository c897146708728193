"""Are all forms the same network? `verify` over every pair that the project promises.

    python benchmarks/equality.py --shared ../shared/data > benchmarks/results/DATE-equality.md

Every shared model at T = 4 and 32, and the embedded digits network at T = 1..64: each form
against the DA-QCFS stage, plainly and strictly, and `matmul` against `counts`. Origins
are counts that differ first in their sample; `unexplained` ones are no near ties.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from shared_models import MODELS, shared_folder

from graphpass import convert, verify
from graphpass_models.digits import INPUT_NAME, digits_model_path, load_digits

_FORMS = ("matmul", "sorted", "counts", "counts-cpu")
_KEYS = ("counts_compared", "origin_near_tie", "origin_unexplained", "downstream", "equal")


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only models whose names contain one of A,B,...")
@click.option("--samples", default=50, show_default=True, help="Images per CIFAR model.")
@click.option("--digits/--no-digits", default=True, help="With the digits at every T.")
def main(shared: str | None, models: str, samples: int, digits: bool) -> None:
    """Print a row per pair."""
    folder = shared_folder(shared)
    print("| model | T | pair | mode | " + " | ".join(_KEYS) + " |")
    print("|---" * (4 + len(_KEYS)) + "|", flush=True)
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            ann, calibration, test = model.paths(folder)
            few = samples if "cifar" in model.name else max(1, samples // 12)
            for steps in (4, 32):
                for row in _rows(ann, calibration, test, steps, few):
                    print(f"| {model.name} | {steps} | {row} |", flush=True)
    if digits:
        _digits()


def _rows(ann: Path, calibration: Any, test: Any, steps: int, samples: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        stages, files = Path(scratch), {}
        start: Path = ann
        for form in _FORMS:
            files[form] = stages / f"{form}.onnx"
            convert(
                start, files[form], steps=steps, data=calibration, samples=200, form=form,
                stages=stages,
            )  # fmt: skip
            start = stages / "3-calibrated.onnx"
        pairs = [("stage 3", start, form, files[form]) for form in _FORMS]
        pairs += [("ANN", ann, "matmul", files["matmul"])]
        pairs += [("matmul", files["matmul"], "counts", files["counts"])]
        for left, reference, right, snn in pairs:
            for strict in (False, True):
                result = verify(reference, snn, test, samples=samples, strict=strict).to_json()
                cells = " | ".join(f"{result[key]:,}" for key in _KEYS[:-1])
                mode = "strict" if strict else "plain"
                yield f"{left} / {right} | {mode} | {cells} | {result['equal']}"


def _digits() -> None:
    """One row for all T: the sums, and whether every pair was equal."""
    digits = load_digits()
    calibration = [{INPUT_NAME: digits.train_images[i : i + 32]} for i in range(0, 320, 32)]
    test = [{INPUT_NAME: digits.test_images[:100]}]
    for mode in ("plain", "strict"):
        sums = dict.fromkeys(_KEYS[:-1], 0)
        equal = True
        for steps in range(1, 65):
            for row in _rows(digits_model_path(), calibration, test, steps, 100):
                cells = [cell.strip() for cell in row.split("|")]
                if cells[1] == mode:
                    equal &= cells[-1] == "True"
                    for key, cell in zip(sums, cells[2:-1], strict=True):
                        sums[key] += int(cell.replace(",", ""))
        cells = " | ".join(f"{value:,}" for value in sums.values())
        print(f"| digits_cnn | 1..64 | all pairs | {mode} | {cells} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
