"""Latency on a GPU: forms x precision x batch, beside the ANN and the serial network.

NOT RUN YET: written on a machine without a GPU. Its logic was run with `--provider cpu`
only; no table of it is in `benchmarks/results/`.

    python benchmarks/gpu.py --shared ../shared/data > benchmarks/results/DATE-gpu.md

All but the serial networks run from bound buffers on the device. With `--cuda-graph` they
are recorded and replayed as well. The serial step model is driven by the session, one run
per time-step, its states handed over in place. TF32 is off unless `--tf32`.
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
from shared_models import MODELS, shared_folder

from graphpass import Session, convert
from graphpass_runtime.errors import GraphpassError

WARM_UP = 3


@dataclass(frozen=True)
class Contender:
    """A file to time, how it is called in the table, and whether it is serial."""

    name: str
    path: Path
    serial: bool = False


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
    ]
    found = [Contender("ANN fp32", ann)]
    for name, options in wanted:
        path = scratch / f"{name.replace(' ', '-')}.onnx"
        serial = "method" in options
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
    runs = [_runner(each, batch, options, cuda_graph=cuda_graph) for each in contenders]
    for run in runs * WARM_UP:
        run()
    times = np.empty((repeat, len(runs)))
    for row in range(repeat):
        for column, run in enumerate(runs):
            start = time.perf_counter()
            run()
            times[row, column] = time.perf_counter() - start
    serial = next(index for index, each in enumerate(contenders) if each.serial)
    print(f"Batch {batch}\n")
    print("| network | median ms | quartiles | / ANN | serial / this | not on the GPU |")
    print("|---" * 6 + "|")
    for column, each in enumerate(contenders):
        low, median, high = np.percentile(times[:, column], (25, 50, 75)) * 1000
        to_ann = np.median(times[:, column] / times[:, 0])
        to_serial = np.median(times[:, serial] / times[:, column])
        print(
            f"| {each.name} | {median:.3f} | {low:.3f} .. {high:.3f} | {to_ann:.2f} |"
            f" {to_serial:.1f} | {_elsewhere(each, batch, options)} |",
            flush=True,
        )
    print()


def _runner(
    contender: Contender, batch: int, options: dict[str, Any], *, cuda_graph: bool
) -> Callable[[], object]:
    """What is timed: a bound batch, or T steps of the serial network."""
    recorded = cuda_graph and not contender.serial
    session = Session(contender.path, spinning=False, cuda_graph=recorded, **options)
    feeds = _images(session, batch)
    if contender.serial:
        return lambda: session.run(feeds)
    return session.bind(feeds).run


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
