"""What form `int8` costs in accuracy: the same images through `counts` and `int8`, paired.

    python benchmarks/int8_accuracy.py --shared ../shared/data > benchmarks/results/DATE-int8.md

Both answer the same images, so that only those count on which one is right and the other
wrong: the difference of their accuracies is known far better than either accuracy. With n
images, b right in `counts` only and c right in `int8` only, it is d = (c - b) / n, with the
standard error sqrt(((b + c) / n - d^2) / n).

Calibration takes the first part of the training images. Evaluated are the test images, and
the training images that are left: those the network has learned from, and gets right more
often, so that they are listed on their own. For ImageNet all of `calib` calibrates.
`error` is ||y - ANN|| / ||ANN|| over the test outputs, which tells more than answers do: a
rounding that adds nothing to what counting spikes costs leaves it where it is.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from shared_models import MODELS, SharedModel, shared_folder

from graphpass import Session, convert
from graphpass_runtime.model_data import open_model_data

_BATCH = 32
_MORE_TESTS = {"imagenet/test": ("imagenet/val10",)}


@dataclass
class Pairs:
    """Answers of two networks to the same labelled images.

    Attributes:
        first: which the first one got right.
        second: which the second one got right.
        same: on which they agree, right or wrong.
    """

    first: list[NDArray[np.bool_]] = field(default_factory=list)
    second: list[NDArray[np.bool_]] = field(default_factory=list)
    same: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, other: Pairs) -> None:
        """Take over what another one has."""
        self.first += other.first
        self.second += other.second
        self.same += other.same

    def cells(self) -> list[str]:
        """Images, both accuracies, their difference, b and c, agreement."""
        first, second = np.concatenate(self.first), np.concatenate(self.second)
        size = len(first)
        lost, won = int((first & ~second).sum()), int((second & ~first).sum())
        drop = (won - lost) / size
        error = np.sqrt(((won + lost) / size - drop**2) / size)
        return [
            f"{size}",
            f"{100 * first.mean():.2f}",
            f"{100 * second.mean():.2f}",
            f"{100 * drop:+.2f} +- {100 * error:.2f}",
            f"{lost} / {won}",
            f"{100 * np.concatenate(self.same).mean():.2f}",
        ]


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="", help="Only models whose names contain one of A,B,...")
@click.option("--steps", default="8,32", show_default=True, help="Values of T.")
@click.option("--samples", default=1000, show_default=True, help="Calibration images at most.")
@click.option("--limit", default=1 << 30, help="Evaluate on so many images of a set at most.")
def main(shared: str | None, models: str, steps: str, samples: int, limit: int) -> None:
    """Print a row for every model, T and set, as soon as it is measured."""
    folder = shared_folder(shared)
    print(
        f"onnxruntime {onnxruntime.__version__}, CPU {platform.machine()}, accuracy in %, default"
        f" calibration on the first {samples} training images at most (half of a smaller set)\n"
    )
    heads = "model,T,set,images,counts,int8,difference,lost / won,agree,error counts,error int8"
    print("| " + " | ".join(heads.split(",")) + " |")
    print("|---" * len(heads.split(",")) + "|", flush=True)
    totals: dict[tuple[int, str], Pairs] = {}
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            with tempfile.TemporaryDirectory() as scratch:
                sets = _sets(model, folder, samples, Path(scratch))
                for time in map(int, steps.split(",")):
                    for name, pairs, errors in _measure(model, folder, sets, time, limit, scratch):
                        totals.setdefault((time, name), Pairs()).add(pairs)
                        _row(model.name, time, name, pairs, *errors)
    for (time, name), pairs in totals.items():
        _row("all", time, name, pairs, "", "")


def _row(model: str, time: int, name: str, pairs: Pairs, *errors: str) -> None:
    print("| " + " | ".join([model, f"{time}", name, *pairs.cells(), *errors]) + " |", flush=True)


def _sets(model: SharedModel, folder: Path, samples: int, scratch: Path) -> dict[str, list[Path]]:
    """`calibration`, `test` and, for sets in one file, `train`: training images that are left."""
    _, calibration, test = model.paths(folder)
    if calibration.is_dir():
        more = [folder / name for name in _MORE_TESTS.get(model.test, ())]
        return {"calibration": [calibration], "test": [test, *more]}
    with np.load(calibration) as archive:
        images, labels = archive["images"], archive["labels"]
    cut = min(samples, len(images) // 2)
    for name, part in (("calibration", slice(cut)), ("train", slice(cut, None))):
        np.savez(scratch / f"{name}.npz", images=images[part], labels=labels[part])
    return {
        "calibration": [scratch / "calibration.npz"],
        "test": [test],
        "train": [scratch / "train.npz"],
    }


def _measure(
    model: SharedModel,
    folder: Path,
    sets: dict[str, list[Path]],
    time: int,
    limit: int,
    scratch: str,
) -> Iterator[tuple[str, Pairs, list[str]]]:
    ann = model.paths(folder)[0]
    stages, files = Path(scratch) / "stages", [Path(scratch) / f"{n}.onnx" for n in "ab"]
    common: dict[str, Any] = {"data": sets["calibration"][0], "stages": stages, "steps": time}
    convert(ann, files[1], form="int8", **common)
    convert(stages / "3-calibrated.onnx", files[0], form="counts")
    sessions = [Session(path) for path in (ann, *files)]
    for name in ("test", "train"):
        if name in sets:
            pairs, errors, norm = Pairs(), np.zeros(2), 0.0
            for path in sets[name]:
                data = open_model_data(path, sessions[0].inputs, [(ann, None)], None, None)
                samples = min(limit, data.samples or limit)
                data = open_model_data(path, sessions[0].inputs, [(ann, None)], None, samples)
                for batch in data.batches(_BATCH):
                    assert batch.labels is not None, "the shared data has labels"
                    exact, *outputs = [_scores(session, batch.feeds) for session in sessions]
                    norm += float((exact**2).sum())
                    errors += [((output - exact) ** 2).sum() for output in outputs]
                    first, second = (output.argmax(axis=1) for output in outputs)
                    pairs.first.append(first == batch.labels)
                    pairs.second.append(second == batch.labels)
                    pairs.same.append(first == second)
            yield name, pairs, [f"{value:.4f}" for value in np.sqrt(errors / norm)]


def _scores(session: Session, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    output = next(iter(session.run(feeds).values()))
    return output.reshape(len(output), -1).astype(np.float64)


if __name__ == "__main__":
    main()
