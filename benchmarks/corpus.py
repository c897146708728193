"""What becomes of each file of the ONNX corpus: converted, with islands, or refused.

    python benchmarks/corpus.py --shared ../shared/data > benchmarks/results/DATE-corpus.md

Every file is first tried without islands, then with them. `verify` compares the spike counts
with the ANN's own DA-QCFS stage; `error` is the distance of the outputs from the ANN's,
relative to their size (root of the summed squares), on inputs that calibration did not see
("0 of 0" where both give only zeros, or no floats).
Inputs are real images where the corpus says how they are scaled, else uniform random numbers
from a seeded generator ("synthetic").
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from shared_models import shared_folder

from graphpass import GraphpassError, Session, convert, verify
from graphpass_runtime.output_error import energy, squared_error

Feeds = dict[str, NDArray[Any]]

_STEPS = (16, 64)
_FORM = "counts"
_ELEMENTS = 1 << 21  # of all inputs together


@dataclass(frozen=True)
class Images:
    """Real images for a model: the data set, and how they become inputs."""

    folder: str
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels_last: bool = False

    def inputs(self, shared: Path, split: str, count: int, shape: list[Any]) -> NDArray[Any]:
        """`count` inputs, float32, each of the model's shape for one sample."""
        images = np.load(shared / self.folder / f"{split}.npz")["images"][:count]
        scaled = (images * np.float32(self.scale) - np.float32(self.mean)) / np.float32(self.std)
        ordered = scaled if self.channels_last else scaled.transpose(0, 3, 1, 2)
        return ordered.astype(np.float32).reshape(count, *shape[1:])


_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
_IMAGES = {
    "mnist_cntk": Images("mnist", scale=1.0),
    "mnist_fc_256x4": Images("mnist"),
    "eran_sigmoid_6x200": Images("mnist"),
    "marabou_cifar_large": Images("cifar10", channels_last=True),
    "vnn_resnet_4b": Images("cifar10", **_CIFAR),
    "vnn_cifar_base": Images("cifar10", **_CIFAR),
    "vit_pgd": Images("cifar10", mean=_CIFAR["mean"], std=(0.2023, 0.1994, 0.2010)),
}
#: Inputs that random numbers do not make sense for, from the README of the data.
_FIXED = {
    "silero_vad_16k": {
        "input": (1, 576),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }
}
#: Inputs of files that ONNX Runtime cannot run as they are, and the index does not know.
_UNLISTED = {"qonnx_espcn_quant": {"x.7": ["tensor(float)", [1, 3, 128, 128]]}}
#: What stands for free dimensions where 1 does not run.
_FREE = {"ppocr_cls": (1, 3, 48, 192)}


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only files whose names contain one of A,B,...")
@click.option("--samples", default=32, show_default=True, help="Most inputs to calibrate with.")
def main(shared: str | None, models: str, samples: int) -> None:
    """Print a row per file, and the sums."""
    folder = shared_folder(shared)
    onnxruntime.set_default_logger_severity(3)
    entries = json.loads((folder / "onnx_corpus/index.json").read_text())
    print("| file | result | neurons | inputs | verify | error T=16 | error T=64 | why not |")
    print("|---" * 8 + "|", flush=True)
    sums: dict[str, int] = {}
    for entry in sorted(entries, key=lambda entry: str(entry["file"])):
        name = Path(entry["file"]).stem
        if any(part in name for part in models.split(",")):
            result, row = _judge(folder, name, entry, samples)
            sums[result] = sums.get(result, 0) + 1
            print(f"| {name} | {result} | {row} |", flush=True)
    total = sum(sums.values())
    print()
    print(", ".join(f"{result}: {count} of {total}" for result, count in sorted(sums.items())))


def _judge(folder: Path, name: str, entry: Mapping[str, Any], samples: int) -> tuple[str, str]:
    """The result, and the other cells of the row."""
    ann = folder / "onnx_corpus" / entry["file"]
    data, heldout, origin = _data(folder, name, entry, samples)
    reasons = []
    for islands in ("forbid", "allow"):
        try:
            cells = _convert(ann, data, heldout, islands)
        except GraphpassError as error:
            reasons.append(str(error).removeprefix(f"{ann.name}: ").replace("|", "/"))
            continue
        neurons, equal, errors = cells
        result = "converted" if islands == "forbid" else "with islands"
        shown = " | ".join("0 of 0" if math.isnan(e) else f"{e:.4f}" for e in errors)
        return result, f"{neurons} | {origin} | {equal} | {shown} | {' '.join(reasons[:1])}"
    return "refused", f"| {origin} | | | | {reasons[-1]}"


def _convert(
    ann: Path, data: list[Feeds], heldout: list[Feeds], islands: str
) -> tuple[int, str, list[float]]:
    """Neurons, whether all forms verify, and the error of the outputs at every T."""
    errors, equal, neurons = [], True, 0
    with tempfile.TemporaryDirectory() as scratch:
        for steps in _STEPS:
            snn, stages = Path(scratch) / f"{steps}.onnx", Path(scratch) / "stages"
            done = convert(
                *(ann, snn),
                **{"steps": steps, "data": data, "form": _FORM, "islands": islands},
                stages=stages,
            )
            neurons = len(done.record.neurons)
            equal &= verify(ann, snn, heldout[:2]).equal
            lowered = ann.stem in _UNLISTED  # ONNX Runtime runs it as graphpass spells it
            reference = stages / "0-normalised.onnx" if lowered else ann
            errors.append(_distance(reference, snn, heldout))
    return neurons, "equal" if equal else "NOT EQUAL", errors


def _distance(ann: Path, snn: Path, heldout: list[Feeds]) -> float:
    """Relative distance between the outputs of two files, over all their float outputs."""
    left, right = Session(ann), Session(snn)
    off = size = 0.0
    for feeds in heldout:
        wanted, found = left.run(feeds), right.run(feeds)
        for key, value in wanted.items():
            if np.issubdtype(value.dtype, np.floating):
                off += squared_error(found[key], value)
                size += energy(value)
    if not size:
        return math.inf if off else math.nan
    return math.sqrt(off / size)


def _data(
    folder: Path, name: str, entry: Mapping[str, Any], samples: int
) -> tuple[list[Feeds], list[Feeds], str]:
    """Calibration inputs, held-out inputs of one sample each, and where they are from."""
    inputs = entry.get("inputs") or _UNLISTED[name]
    shapes = {
        key: [size if isinstance(size, int) else _FREE.get(name, (1,) * 9)[axis]
              for axis, size in enumerate(shape)]
        for key, (_, shape) in inputs.items()
    }  # fmt: skip
    elements = sum(math.prod(shape) for shape in shapes.values())
    count = max(2, min(samples, _ELEMENTS // max(1, elements)))
    if name in _IMAGES:
        (key,) = shapes
        calib, test = (
            _IMAGES[name].inputs(folder, split, count, shapes[key]) for split in ("train", "test")
        )
        return (
            [{key: image[None]} for image in calib],
            [{key: image[None]} for image in test[: max(2, count // 4)]],
            f"{count} {_IMAGES[name].folder}",
        )
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = [_draw(name, shapes, rng) for _ in range(count + max(2, count // 4))]
    return drawn[:count], drawn[count:], f"{count} synthetic"


def _draw(name: str, shapes: Mapping[str, Any], rng: np.random.Generator) -> Feeds:
    if name not in _FIXED:
        return {key: rng.uniform(0, 1, shape).astype(np.float32) for key, shape in shapes.items()}
    return {
        key: rng.normal(0, 0.1, value).astype(np.float32) if isinstance(value, tuple) else value
        for key, value in _FIXED[name].items()
    }


if __name__ == "__main__":
    main()
