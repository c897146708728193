"""What several neurons for each value are worth, and what they cost.

    python benchmarks/population.py --shared ../shared/data > benchmarks/results/DATE-population.md

The same ANN with one neuron for each value, and with more where they help most for their cost
(`--population`). Neurons, spikes and synaptic operations are those of one image, spikes of the
test images on average; a synaptic operation is what a spike adds to one neuron of a layer
that reads it (`graphpass.fanout`), or to the sum behind a skip. Times are ratios to the first
row of the same form, from one interleaved run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from accuracy import versions
from shared_models import MODELS, SharedModel, shared_folder

from graphpass import Session, convert, evaluate, fanout
from graphpass.calibration.measuring import count
from graphpass.model import infer_shapes, load
from graphpass_runtime.benchmark import bench
from graphpass_runtime.model_data import open_model_data

_FORMS = ("counts", "matmul")
_CALIBRATION = 256
_IMAGES = 64  # that spikes are counted on
_BATCH = 16
_HEAD = (
    *("model", "T", "population", "accuracy", "error", "neurons", "spikes"),
    *("synaptic operations", "ratio", *(f"time of {form}" for form in _FORMS)),
)


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option(
    "--models",
    default="resnet20_cifar10,resnet56_cifar10,mobilenet_v2,squeezenet",
    show_default=True,
    help="Only models whose names contain one of A,B,...",
)
@click.option("--steps", default=8, show_default=True, help="T.")
@click.option("--sizes", default="1,2,3,5", show_default=True, help="Neurons for each value.")
@click.option("--repeat", default=15, show_default=True, help="Rounds of timing.")
def main(shared: str | None, models: str, steps: int, sizes: str, repeat: int) -> None:
    """Print the table."""
    folder = shared_folder(shared)
    print(f"{versions()}, at most {_CALIBRATION} calibration images, batches of {_BATCH}\n")
    print("| " + " | ".join(_HEAD) + " |")
    print("|---" * len(_HEAD) + "|", flush=True)
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            for cells in _rows(model, folder, steps, [int(n) for n in sizes.split(",")], repeat):
                print("| " + " | ".join(cells) + " |", flush=True)


def _rows(
    model: SharedModel, folder: Path, steps: int, sizes: list[int], repeat: int
) -> Iterator[list[str]]:
    ann, calibration, test = model.paths(folder)
    with tempfile.TemporaryDirectory() as scratch:
        start, stages = ann, Path(scratch) / "stages"
        cells, work = [], []
        for size in sizes:
            snn, calibrated = _file(scratch, "counts", size), stages / "3-calibrated.onnx"
            convert(
                *(start, snn),
                **{"steps": steps, "population": size, "form": "counts", "stages": stages},
                **{"data": calibration, "samples": _CALIBRATION},
            )
            start = stages / "1-clip.onnx"
            convert(calibrated, _file(scratch, "matmul", size), form="matmul")
            neurons, spikes, operations = _activity(snn, calibrated, test, ann)
            session = Session(snn)
            data = open_model_data(test, session.inputs, [(ann, None)])
            found = evaluate(session, data, batch=50, reference=Session(ann))
            assert found.accuracy is not None, "the shared test data has labels"
            work.append(operations)
            cells.append(
                [
                    *(model.name, str(steps), str(size), f"{100 * found.accuracy:.2f}"),
                    f"{found.output_relative_error or 0.0:.3f}",
                    *(f"{neurons:,}", f"{spikes:,.0f}", f"{operations / 1e6:.1f} M"),
                ]
            )
        times = []
        for form in _FORMS:
            files = [_file(scratch, form, size) for size in sizes]
            timed = bench(files, batches=[_BATCH], repeat=repeat)
            times.append([f"{item.ratio:.2f}" for item in timed.measurements])
        for row, operations, *ratios in zip(cells, work, *times, strict=True):
            yield [*row, f"{operations / work[0]:.2f}", *ratios]


def _file(folder: str, form: str, size: int) -> Path:
    return Path(folder) / f"{form}-{size}.onnx"


def _activity(snn: Path, stage3: Path, test: Path, ann: Path) -> tuple[int, float, float]:
    """Neurons, spikes and synaptic operations for one image."""
    session, model = Session(snn), load(stage3)
    infer_shapes(model)
    assert session.record is not None, "it spikes"
    names = [neuron.name for neuron in session.record.neurons]
    work = fanout.synaptic_work(model, names)
    data = open_model_data(test, session.inputs, [(ann, None)], samples=_IMAGES)
    totals, images = dict.fromkeys(names, 0.0), 0
    units: dict[str, int] = {}
    for batch in data.batches(_BATCH):
        for name, counts in session.spike_counts(batch.feeds).items():
            totals[name] += float(counts.sum())
            units[name] = int(np.prod(counts.shape[1:]))
        images += count(batch.feeds)
    neurons = sum(units[n.name] * n.together for n in session.record.neurons)
    # A spike that no layer reads still reaches the neuron behind a sum.
    operations = sum(totals[n] * max(1.0, work[n] / units[n]) for n in names)
    return neurons, sum(totals.values()) / images, operations / images


if __name__ == "__main__":
    main()
