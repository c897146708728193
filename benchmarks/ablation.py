"""What each part of the default calibration is worth.

    python benchmarks/ablation.py --shared ../shared/data > benchmarks/results/DATE-ablation.md

First table: every rule of thresholds, with the amplitudes theta/T of a plain quantiser, with
amplitudes of least squares, with matched currents on top, and with several neurons for each
value where that is cheap, which is the product. `blend` is the default; every column has the
blend that its trials choose. Second table: the default by the number of calibration images,
and data-free where the model allows it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from accuracy import accuracy, versions
from composition import Composition, regular, write
from shared_models import MODELS, WITH_STATISTICS, SharedModel, shared_folder

from graphpass import Session, convert
from graphpass.calibration import matching, optimal, recording
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.moments import Vector
from graphpass.calibration.recording import Recording
from graphpass_runtime.errors import GraphpassError
from graphpass_runtime.model_data import open_model_data

_IMAGES = (64, 256, 1000, 4000)
_COLUMNS = ("thresholds", "+ amplitudes", "+ matching", "+ populations")


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="resnet20_cifar10,resnet20_cifar10_bn", help="Their names.")
@click.option("--steps", default="4,8", show_default=True, help="Values of T.")
@click.option("--samples", default=1000, show_default=True, help="Calibration images at most.")
def main(shared: str | None, models: str, steps: str, samples: int) -> None:
    """Print both tables, a row as soon as it is measured."""
    folder = shared_folder(shared)
    times = [int(value) for value in steps.split(",")]
    known = {model.name: model for model in (*MODELS, *WITH_STATISTICS)}
    chosen = [known[name] for name in models.split(",")]
    print(f"{versions()}, accuracy in %, {samples} calibration images at most\n")
    _head("model", "T", "threshold", *_COLUMNS)
    for model in chosen:
        for time in times:
            for cells in _parts(model, folder, time, samples):
                _row(model.name, str(time), *cells)
    print()
    _head("model", "images", *(f"T={time}" for time in times))
    for model in chosen:
        for cells in _images(model, folder, times):
            _row(model.name, *cells)


def _head(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")
    print("|---" * len(cells) + "|", flush=True)


def _row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def _parts(model: SharedModel, folder: Path, time: int, samples: int) -> Iterator[list[str]]:
    """Rule of thresholds, and the accuracy with each part added."""
    ann, data, _ = model.paths(folder)
    with tempfile.TemporaryDirectory() as scratch:
        snn, stages = Path(scratch) / "snn.onnx", Path(scratch) / "stages"
        common: dict[str, Any] = {"steps": time, "data": data, "samples": samples, "form": "counts"}
        convert(ann, snn, calibrate="none", stages=stages, **common)
        clip = stages / "1-clip.onnx"
        composition = Composition(ann, clip, data, samples)
        stage2, measuring = composition.stage2(time)
        seen = recording.record(stage2, measuring, max(optimal.TRIAL_SAMPLES))
        matcher = matching.Matcher(stage2, seen.neurons, measuring)
        for rule in optimal.THRESHOLDS:
            shares = _shares(seen, rule, matcher, measuring)
            neurons = optimal.with_thresholds(seen, shares)
            wanted = seen.moments()
            own = optimal.own_moments(seen, neurons, matcher, measuring, {})
            matched = {
                n: matching.matched(neuron, wanted[n], own[n]) for n, neuron in neurons.items()
            }
            cells = [rule]
            for part in (regular(neurons), neurons, matched):
                write(composition.stage2(time)[0], part, snn)
                cells.append(accuracy(snn, model, folder))
            convert(clip, snn, threshold=rule, **common)
            yield [*cells, accuracy(snn, model, folder)]


def _shares(
    seen: Recording, rule: str, matcher: matching.Matcher, measuring: Measuring
) -> Mapping[str, Vector]:
    if rule != optimal.BLEND:
        return optimal.threshold_shares(seen, rule)
    shares = optimal.threshold_shares(seen, "mse")
    return optimal.blended(shares, optimal.best_blend(seen, shares, matcher, measuring)[0].blend)


def _images(model: SharedModel, folder: Path, times: list[int]) -> Iterator[list[str]]:
    """Number of calibration images, and the accuracy for every T."""
    ann, data, _ = model.paths(folder)
    with tempfile.TemporaryDirectory() as scratch:
        snn = Path(scratch) / "snn.onnx"

        def row(**options: Any) -> Iterator[str]:
            for time in times:
                convert(ann, snn, steps=time, form="counts", **options)
                yield accuracy(snn, model, folder)

        try:
            yield ["data-free", *row(threshold="gaussian")]
        except GraphpassError as error:
            print(f"<!-- {model.name}, data-free: {error} -->", flush=True)
        available = open_model_data(data, Session(ann).inputs, [(ann, None)]).samples
        for images in [n for n in _IMAGES if available is not None and n <= available]:
            yield [str(images), *row(data=data, samples=images)]


if __name__ == "__main__":
    main()
