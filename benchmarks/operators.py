"""Where the time of a form goes: ONNX Runtime's own profile, by operator.

    python benchmarks/operators.py --shared ../shared/data > benchmarks/results/DATE-operators.md

Microseconds per run at batch 1, of the fused graph that ONNX Runtime executes; a cell is
the smallest of several profiled runs. Profiling slows small operators down, so the sums
are more than the latencies of the speed table.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
from numpy.typing import NDArray
from resnet18 import write_resnet18
from shared_models import MODELS, shared_folder

from graphpass import Session, convert
from graphpass_runtime.model_data import open_model_data

_FORMS = ("counts", "counts-cpu", "int8")
_LARGEST = 9  # operators that get a row


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--repeat", default=5, show_default=True, help="Profiled runs.")
def main(shared: str | None, repeat: int) -> None:
    """Print a table for each of three networks."""
    folder = shared_folder(shared)
    for name in ("resnet18", "mobilenet_v2", "resnet20_cifar10"):
        with tempfile.TemporaryDirectory() as scratch:
            _table(name, folder, Path(scratch), repeat)


def _table(name: str, folder: Path, scratch: Path, repeat: int) -> None:
    model = next(m for m in MODELS if (name if name != "resnet18" else "mobilenet") in m.name)
    ann, calibration, _ = model.paths(folder)
    known = ann
    if name == "resnet18":  # random weights, and the images of another network
        ann = write_resnet18(scratch / "resnet18.onnx")
    inputs = Session(ann).inputs
    data = [
        {inputs[0].name: next(iter(step.feeds.values()))}
        for step in open_model_data(
            calibration, Session(known).inputs, [(known, None)], samples=8
        ).batches(4)
    ]
    sides = {"ANN": ann}
    for form in _FORMS:
        sides[form] = scratch / f"{form}.onnx"
        convert(ann, sides[form], steps=32, data=data, calibrate="none", form=form)
    one = {inputs[0].name: data[0][inputs[0].name][:1]}
    found = {side: _by_operator(path, one, repeat) for side, path in sides.items()}
    total = sum(found.values(), Counter())
    rows = [op for op, _ in total.most_common(_LARGEST)]
    print(f"\n{name}\n\n| operator | " + " | ".join(sides) + " |")
    print("|---" * (1 + len(sides)) + "|")
    for op in rows:
        print(f"| {op} | " + " | ".join(f"{found[s][op]:,}" for s in sides) + " |")
    print("| all | " + " | ".join(f"{sum(found[s].values()):,}" for s in sides) + " |", flush=True)


def _by_operator(path: Path, feeds: dict[str, NDArray[Any]], repeat: int) -> Counter[str]:
    """Microseconds per operator; of the run that was fastest in all."""
    session = Session(path, threads=2)
    runs = []
    for _ in range(repeat):
        times: Counter[str] = Counter()
        for node in session.placement(feeds).nodes:
            times[node.operator] += node.microseconds
        runs.append(times)
    return min(runs, key=lambda times: sum(times.values()))


if __name__ == "__main__":
    main()
