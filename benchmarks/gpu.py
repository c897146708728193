"""Latency on a GPU: forms x precision x batch, beside the ANN and the serial network.

NOT RUN YET: written on a machine without a GPU. Its logic was run with `--provider cpu`
only; no table of it is in `benchmarks/results/`.

    python benchmarks/gpu.py --shared ../shared/data > benchmarks/results/DATE-gpu.md

Everything runs from bound buffers on the device, the serial networks too: the states of the
step model never leave it, and between steps nothing is copied or cleared. With `--cuda-graph`
all but the Scan, which is control flow, are recorded and replayed, the serial one step by
step. So the serial side, the faster of the two in each table, is as fast as ONNX Runtime
makes it; what is left of its T-fold work are T times the launches. TF32 is off unless
`--tf32`. There is no fp16 serial network: its ratio to `counts fp16` mixes precisions.
Rounds are interleaved, and a ratio is the median over rounds of the ratio within a round.
A row ends with the operators that did not run on the GPU: it should be empty.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from shared_models import MODELS, shared_folder

from graphpass import Session, convert
from graphpass_runtime.errors import GraphpassError

WARM_UP = 3


@dataclass(frozen=True)
class Contender:
    """A file to time, how it is called in the table, and its serial form if it has one."""

    name: str
    path: Path
    serial: str | None = None

    @property
    def recordable(self) -> bool:
        """Can a CUDA graph hold it?"""
        return self.serial != "scan"


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--model", default="resnet20_cifar10", show_default=True)
@click.option("--steps", default=32, show_default=True, help="T.")
@click.option("--batches", default="1,8,64", show_default=True)
@click.option("--repeat", default=50, show_default=True, help="Rounds.")
@click.option("--provider", default="cuda", show_default=True)
@click.option("--cuda-graph", is_flag=True, help="Record and replay what is bound.")
@click.option("--tf32", is_flag=True, help="Allow TF32 in fp32 products.")
def main(
    *,
    shared: str | None,
    model: str,
    steps: int,
    batches: str,
    repeat: int,
    provider: str,
    cuda_graph: bool,
    tf32: bool,
) -> None:
    """Print one table per batch size."""
    options = {"provider": provider, "tf32": tf32}
    print(
        f"onnxruntime {onnxruntime.__version__}, {provider}, {platform.machine()}, {model},"
        f" T = {steps}, TF32 {'on' if tf32 else 'off'},"
        f" CUDA graphs {'on' if cuda_graph else 'off'}, {repeat} rounds\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        contenders = _convert(model, shared_folder(shared), Path(scratch), steps)
        for batch in map(int, batches.split(",")):
            _table(contenders, batch, repeat, options, cuda_graph=cuda_graph)


def _convert(model: str, shared: Path, scratch: Path, steps: int) -> list[Contender]:
    """Calibrate once, on the CPU, and write every form from the same stage 3."""
    known = next(each for each in MODELS if each.name == model)
    ann, calibration, _ = known.paths(shared)
    common = {"data": calibration, "calib_batch": known.calib_batch, "provider": "cpu"}
    stages = scratch / "stages"
    convert(ann, scratch / "first.onnx", steps=steps, stages=stages, **common)
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("counts fp32", {"form": "counts"}),
        ("counts fp16", {"form": "counts", "precision": "fp16"}),
        ("sorted fp32", {"form": "sorted"}),
        ("serial step fp32", {"method": "qcfs", "serial": "step"}),
        ("serial scan fp32", {"method": "qcfs", "serial": "scan"}),
    ]
    found = [Contender("ANN fp32", ann)]
    for name, options in wanted:
        path = scratch / f"{name.replace(' ', '-')}.onnx"
        serial = options.get("serial")
        # The serial network starts from the same thresholds, which stage 1 has.
        start = stages / ("1-clip.onnx" if serial else "3-calibrated.onnx")
        convert(start, path, **options, **({"steps": steps, **common} if serial else {}))
        found.append(Contender(name, path, serial))
    return found


def _table(
    contenders: list[Contender],
    batch: int,
    repeat: int,
    options: dict[str, Any],
    *,
    cuda_graph: bool,
) -> None:
    runs: dict[Contender, Callable[[], object]] = {}
    failed: dict[Contender, GraphpassError] = {}
    for each in contenders:
        try:
            runs[each] = _bound(each, batch, options, cuda_graph=cuda_graph)
        except GraphpassError as error:
            failed[each] = error
    times = _time(list(runs.values()), repeat)
    serials = [column for column, each in enumerate(runs) if each.serial]
    serial = min(serials, key=lambda column: float(np.median(times[:, column])), default=None)
    print(f"Batch {batch}\n")
    print("| network | median ms | quartiles | / ANN | serial / this | not on the GPU |")
    print("|---" * 6 + "|")
    for column, each in enumerate(runs):
        low, median, high = np.percentile(times[:, column], (25, 50, 75)) * 1000
        to_ann = np.median(times[:, column] / times[:, 0])
        to_serial = "" if serial is None else _ratio(times[:, serial], times[:, column])
        print(
            f"| {each.name} | {median:.3f} | {low:.3f} .. {high:.3f} | {to_ann:.2f} |"
            f" {to_serial} | {_elsewhere(each, batch, options)} |",
            flush=True,
        )
    for each, reason in failed.items():
        print(f"| {each.name} | fails: {reason} | | | | |")
    print()


def _time(runs: list[Callable[[], object]], repeat: int) -> NDArray[np.float64]:
    """Seconds by round and network."""
    for run in runs * WARM_UP:
        run()
    times = np.empty((repeat, len(runs)))
    for row in range(repeat):
        for column, run in enumerate(runs):
            start = time.perf_counter()
            run()
            times[row, column] = time.perf_counter() - start
    return times


def _ratio(times: NDArray[np.float64], others: NDArray[np.float64]) -> str:
    return f"{np.median(times / others):.1f}"


def _bound(
    contender: Contender, batch: int, options: dict[str, Any], *, cuda_graph: bool
) -> Callable[[], object]:
    """What is timed: a batch on the device; T steps of the serial network."""
    recorded = cuda_graph and contender.recordable
    session = Session(contender.path, spinning=False, cuda_graph=recorded, **options)
    return session.bind(_images(session, batch)).run


def _images(session: Session, batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(batch)
    return {
        spec.name: rng.normal(size=(batch, *spec.shape[1:])).astype(spec.dtype)
        for spec in session.inputs
    }


def _elsewhere(contender: Contender, batch: int, options: dict[str, Any]) -> str:
    session = Session(contender.path, **options)
    try:
        placed = session.placement(_images(session, batch)).operators()
    except GraphpassError as error:
        return f"unknown: {error}"
    found = placed.get("CPUExecutionProvider", {})
    copies = {
        name: count
        for operators in placed.values()
        for name, count in operators.items()
        if name.startswith("Memcpy")
    }
    return ", ".join(f"{count} {name}" for name, count in {**found, **copies}.items())


if __name__ == "__main__":
    main()
