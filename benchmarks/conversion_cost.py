"""What a conversion costs, as multiples of one plain pass of the ANN over the same images.

    python benchmarks/conversion_cost.py --shared ../shared/data > benchmarks/results/DATE-cost.md

Each side runs in a process of its own (Linux), the sides in turn, medians over the rounds: time
without start-up and imports, peak memory of the whole process. Batches and threads are the same
on both sides. Processor time is steadier than wall time where other programs run. Below
`optimal` stand its parts: its ways through the data, each from the first batch to the last,
and the rest, in which sessions are made, thresholds computed and files read and written.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import click
from shared_models import MODELS, shared_folder

from graphpass import Session, convert
from graphpass_runtime.model_data import open_model_data

_PARTS = {
    "measuring sensitivities": "sensitivities",
    "recording currents": "recording",
    "choosing thresholds": "trials",
    "matching currents": "matching",
}
_HEAD = "model | images | batch | side | seconds | in ANN passes | CPU s | in ANN passes | peak MiB"


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--repeat", default=3, show_default=True, help="Rounds.")
def main(shared: str | None, repeat: int) -> None:
    """Print the table."""
    folder = shared_folder(shared)
    print(f"| {_HEAD} |")
    print("|" + "---|" * (1 + _HEAD.count("|")), flush=True)
    for name, samples, own_batch in (
        ("mobilenet_v2", 64, 8),  # the batches that `optimal` takes by itself
        ("mobilenet_v2", 256, 8),
        ("resnet20_cifar10", 500, 32),
        ("resnet20_cifar10", 4000, 32),
    ):
        model = next(m for m in MODELS if name in m.name)
        ann, calibration, _ = model.paths(folder)
        for batch, rules in ((own_batch, ("ANN", "none", "optimal")), (10, ("ANN", "paper"))):
            rounds: dict[str, list[Cost]] = {rule: [] for rule in rules}
            for _ in range(repeat):
                for rule in rules:
                    rounds[rule].append(_run(ann, calibration, samples, batch, rule))
            base = _middle(rounds["ANN"])["ANN"]
            for rule, found in rounds.items():
                peak = median(cost.peak for cost in found)
                for part, (wall, cpu) in _middle(found).items():
                    cells = (
                        *(model.name, samples, batch, part),
                        *(f"{wall:.1f}", f"{wall / base[0]:.2f}"),
                        *(f"{cpu:.1f}", f"{cpu / base[1]:.2f}"),
                        f"{peak:.0f}" if part == rule else "",
                    )
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds of wall and processor time by part, and peak MiB."""

    times: dict[str, tuple[float, float]]
    peak: float


def _middle(costs: list[Cost]) -> dict[str, tuple[float, float]]:
    """Medians, part by part."""
    return {
        part: (median(c.times[part][0] for c in costs), median(c.times[part][1] for c in costs))
        for part in costs[0].times
    }


def _run(ann: Path, data: Path, samples: int, batch: int, rule: str) -> Cost:
    """In a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (ann, data, samples, batch, rule))


def _measure(ann: Path, data: Path, samples: int, batch: int, rule: str) -> Cost:
    marks = [("rest", _now())]

    def progress(title: str, total: int | None) -> Callable[[int], None]:
        marks.append((_PARTS.get(title, "rest"), _now()))
        left = total or 0

        def advance(done: int) -> None:
            nonlocal left
            left -= done
            if left == 0:
                marks.append(("rest", _now()))

        return advance

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
                progress=progress,
            )  # fmt: skip
    marks.append(("end", _now()))
    times = {rule: _between(marks[0][1], marks[-1][1])}
    if rule == "optimal":
        parts = dict.fromkeys((*_PARTS.values(), "rest"), (0.0, 0.0))
        for (part, start), (_, end) in pairwise(marks):
            wall, cpu = _between(start, end)
            parts[part] = parts[part][0] + wall, parts[part][1] + cpu
        times |= {f"- {part}": spent for part, spent in parts.items()}
    # Not ru_maxrss: Linux hands that of the parent on to a child.
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return Cost(times, int(status.split()[0]) / 1024)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _between(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    return end[0] - start[0], end[1] - start[1]


if __name__ == "__main__":
    main()
