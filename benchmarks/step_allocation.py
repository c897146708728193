"""The same steps for every layer, or as many as each needs at the same mean.

    python benchmarks/step_allocation.py --shared ../shared/data > RESULT.md

Everything is chosen on the training images, and tested on all test images, in the form
`counts`. The mean is weighted by synaptic operations.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import click
import onnxruntime
from shared_models import MODELS, SharedModel, shared_folder

from graphpass import Evaluation, Session, convert, convert_allocated, evaluate
from graphpass_runtime.model_data import open_model_data


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="resnet", help="Only models whose names contain one of A,B,...")
@click.option("--steps", default="4", show_default=True, help="Values of T, and of the budget.")
@click.option("--samples", default=1000, show_default=True, help="Calibration images at most.")
def main(shared: str | None, models: str, steps: str, samples: int) -> None:
    """Print the table, a row as soon as it is measured."""
    folder = shared_folder(shared)
    print(
        f"onnxruntime {onnxruntime.__version__}, CPU {platform.machine()}, at most {samples}"
        " calibration images\n"
    )
    print("| model | steps | mean | accuracy % | agreement with the ANN % | output error |")
    print("|---" * 6 + "|", flush=True)
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            for budget in steps.split(","):
                _rows(model, folder, int(budget), samples)


def _rows(model: SharedModel, folder: Path, budget: int, samples: int) -> None:
    ann, calibration, _ = model.paths(folder)
    with tempfile.TemporaryDirectory() as scratch:
        snn = Path(scratch) / "snn.onnx"
        convert(ann, snn, steps=budget, data=calibration, samples=samples, form="counts")
        _print(model, f"{budget} each", float(budget), _judged(snn, model, folder))
        _, found = convert_allocated(
            ann, snn, float(budget), data=calibration, samples=samples, form="counts"
        )
        fewest, most = min(found.steps.values()), max(found.steps.values())
        _print(model, f"auto, {fewest} to {most}", found.mean, _judged(snn, model, folder))


def _judged(snn: Path, model: SharedModel, folder: Path) -> Evaluation:
    ann, _, test = model.paths(folder)
    session = Session(snn)
    data = open_model_data(test, session.inputs, [(ann, None)])
    return evaluate(session, data, batch=50, reference=Session(ann))


def _print(model: SharedModel, steps: str, mean: float, result: Evaluation) -> None:
    accuracy, agreement = (100 * (share or 0) for share in (result.accuracy, result.agreement))
    cells = (model.name, steps, f"{mean:.2f}", f"{accuracy:.2f}", f"{agreement:.2f}")
    print("| " + " | ".join((*cells, f"{result.output_relative_error:.4f}")) + " |", flush=True)


if __name__ == "__main__":
    main()
