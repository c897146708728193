"""Does form `int8` compute what its integers say? `verify` on every shared model.

    python benchmarks/integers.py --shared ../shared/data > benchmarks/results/DATE-integers.md

`levels` are all roundings to uint8. `near ties` fall to the other side of a middle than exact
arithmetic on the integers does, `wrong` ones are elsewhere; `changed` are tensors that
differ from those that the ANN rounds to. Calibrated on a few images, by the maximum: the
question is whether the file is computed right, not whether it is good.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import onnxruntime
from shared_models import MODELS, SharedModel, shared_folder

from graphpass import convert, verify

_KEYS = (
    *("samples", "integer_layers", "levels_compared", "level_near_tie", "level_wrong"),
    *("output_error", "integers_changed", "equal"),
)
_CALIBRATION = 16


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only models whose names contain one of A,B,...")
@click.option("--steps", default="4,32,200", show_default=True, help="Values of T.")
@click.option("--samples", default=24, show_default=True, help="Images per CIFAR model.")
def main(shared: str | None, models: str, steps: str, samples: int) -> None:
    """Print a row for every model and T."""
    folder = shared_folder(shared)
    print(f"onnxruntime {onnxruntime.__version__}\n")
    print("| model | T | " + " | ".join(key.replace("_", " ") for key in _KEYS) + " |")
    print("|---" * (2 + len(_KEYS)) + "|", flush=True)
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            few = samples if "cifar" in model.name else max(1, samples // 12)
            for time in map(int, steps.split(",")):
                cells = _cells(model, folder, time, few)
                print("| " + " | ".join([model.name, f"{time}", *cells]) + " |", flush=True)


def _cells(model: SharedModel, folder: Path, steps: int, samples: int) -> list[str]:
    ann, calibration, test = model.paths(folder)
    with tempfile.TemporaryDirectory() as scratch:
        snn = Path(scratch) / "int8.onnx"
        convert(
            *(ann, snn),
            **{"steps": steps, "data": calibration, "samples": _CALIBRATION},
            **{"form": "int8", "calibrate": "none"},
        )
        result = verify(ann, snn, test, samples=samples).to_json()
    return [f"{result[key]:.2g}" if key == "output_error" else f"{result[key]}" for key in _KEYS]


if __name__ == "__main__":
    main()
