"""Networks that are quantised already, in ONNX Runtime's ways: converted at their own levels.

    python benchmarks/quantised.py --shared ../shared/data > benchmarks/results/DATE-quantised.md

Every shared CIFAR network is quantised statically on 100 training images, and converted by
default, without data, at as many steps as its integers have levels. `same` are the test images
whose outputs are the quantised network's to the bit, as ONNX Runtime runs it; the others differ
by sums beside a tie, which later roundings make steps of. `error` is ||y - y_ANN|| / ||y_ANN||.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType
from shared_models import MODELS, SharedModel, shared_folder
from static_int8 import write_static_int8

from graphpass import Session, convert, verify
from graphpass_runtime.data import Batch
from graphpass_runtime.errors import GraphpassError
from graphpass_runtime.model_data import open_model_data

_SIGNED = {"activation_type": QuantType.QInt8}
_SYMMETRIC = _SIGNED | {"extra_options": {"ActivationSymmetric": True}}
_INTEGERS = {"quant_format": QuantFormat.QOperator}

#: Options of ONNX Runtime's static quantisation, by what they are called here.
WAYS: dict[str, Mapping[str, Any]] = {
    "guide": {},
    "not prepared": {"prepare": False},
    "weights per tensor": {"per_channel": False},
    "weights uint8": {"per_channel": False, "weight_type": QuantType.QUInt8},
    "weights of 7 bits": {"reduce_range": True},
    "int8": _SIGNED,
    "int8 symmetric": _SYMMETRIC,
    "QOperator": _INTEGERS,
    "QOperator, weights per tensor": _INTEGERS | {"per_channel": False},
    "QOperator, int8 symmetric": _INTEGERS | _SYMMETRIC,
}
_CALIBRATION = 100
_STEPS = 255
_BATCH = 20


@click.command()
@click.option("--shared", type=click.Path(), help="Folder of the shared data.")
@click.option("--models", default="cifar", help="Only models whose names contain one of A,B,...")
@click.option("--samples", default=100, show_default=True, help="Test images.")
def main(shared: str | None, models: str, samples: int) -> None:
    """Print a row for every model and way."""
    folder = shared_folder(shared)
    logging.disable(logging.WARNING)  # of the quantiser
    print(f"onnxruntime {onnxruntime.__version__}, T = {_STEPS}, {samples} test images\n")
    print("| model | quantised | neurons | equal | same | error | ANN | SNN |")
    print("|---" * 8 + "|", flush=True)
    for model in MODELS:
        if any(part in model.name for part in models.split(",")):
            for name, options in WAYS.items():
                cells = _cells(model, folder, options, samples)
                print("| " + " | ".join([model.name, name, *cells]) + " |", flush=True)


def _cells(
    model: SharedModel, folder: Path, options: Mapping[str, Any], samples: int
) -> Iterator[str]:
    source, calibration, test = model.paths(folder)
    with tempfile.TemporaryDirectory() as scratch:
        ann, snn = Path(scratch) / "ann.onnx", Path(scratch) / "snn.onnx"
        feeds = (dict(b.feeds) for b in _batches(source, calibration, _CALIBRATION))
        write_static_int8(source, feeds, ann, **options)
        try:
            result = convert(ann, snn, steps=_STEPS, form="counts")
        except GraphpassError as refusal:
            yield f"refused: {str(refusal).removeprefix(f'{ann.name}: ')}"
            return
        batches = list(_batches(source, test, samples))
        labels = np.concatenate([b.labels for b in batches if b.labels is not None])
        yield str(len(result.record.neurons))
        yield str(verify(ann, snn, [dict(b.feeds) for b in batches]).equal)
        wanted, found = (_outputs(path, batches) for path in (ann, snn))
    yield f"{100 * np.mean((wanted == found).all(axis=1)):.0f} %"
    yield f"{np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.4f}"
    for outputs in (wanted, found):
        yield f"{100 * np.mean(outputs.argmax(axis=1) == labels):.1f}"


def _batches(ann: Path, data: Path, samples: int) -> Iterator[Batch]:
    return open_model_data(data, Session(ann).inputs, [(ann, None)], samples=samples).batches(
        _BATCH
    )


def _outputs(path: Path, batches: list[Batch]) -> NDArray[np.float32]:
    session = Session(path)
    (name,) = (output.name for output in session.outputs)
    return np.concatenate([session.run(batch.feeds)[name] for batch in batches])


if __name__ == "__main__":
    main()
