"""What a conversion costs, as multiples of one plain pass of the ANN over the same images.

    python benchmarks/conversion_cost.py --shared ../shared/data > benchmarks/results/DATE-cost.md

Each side runs in a process of its own (Linux): wall time without start-up and imports, peak
memory of the whole process. Batches and threads are the same on both sides.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median

import click
from shared_models import MODELS, shared_folder

from graphpass import Session, convert
from graphpass_runtime.model_data import open_model_data


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--repeat", default=3, show_default=True, help="Rounds.")
def main(shared: str | None, repeat: int) -> None:
    """Print the table."""
    folder = shared_folder(shared)
    print("| model | images | batch | side | seconds | in ANN passes | peak MiB | of the ANN's |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, samples in (
        ("mobilenet_v2", 64),
        ("mobilenet_v2", 256),
        ("resnet20_cifar10", 500),
        ("resnet20_cifar10", 4000),
    ):
        model = next(m for m in MODELS if name in m.name)
        ann, calibration, _ = model.paths(folder)
        for batch, rules in ((32, ("ANN", "none", "optimal")), (10, ("ANN", "paper"))):
            rounds: dict[str, list[tuple[float, float]]] = {rule: [] for rule in rules}
            for _ in range(repeat):
                for rule in rules:
                    rounds[rule].append(_run(ann, calibration, samples, batch, rule))
            base = [median(values) for values in zip(*rounds["ANN"], strict=True)]
            for rule, found in rounds.items():
                wall, peak = (median(values) for values in zip(*found, strict=True))
                print(
                    f"| {model.name} | {samples} | {batch} | {rule} | {wall:.1f}"
                    f" | {wall / base[0]:.2f} | {peak:.0f} | {peak / base[1]:.2f} |",
                    flush=True,
                )


def _run(ann: Path, data: Path, samples: int, batch: int, rule: str) -> tuple[float, float]:
    """Seconds and peak MiB, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (ann, data, samples, batch, rule))


def _measure(ann: Path, data: Path, samples: int, batch: int, rule: str) -> tuple[float, float]:
    start = time.perf_counter()
    if rule == "ANN":
        session = Session(ann)
        source = open_model_data(data, session.inputs, [(ann, None)], samples=samples)
        for step in source.batches(batch):
            session.run(step.feeds)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            convert(
                ann, Path(scratch) / "snn.onnx", steps=16, data=data, samples=samples,
                calib_batch=batch, calibrate=rule, form="counts",
            )  # fmt: skip
    seconds = time.perf_counter() - start
    # Not ru_maxrss: Linux hands that of the parent on to a child.
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return seconds, int(status.split()[0]) / 1024


if __name__ == "__main__":
    main()
