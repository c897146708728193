"""The demo: the embedded digits network, converted at several T and tested."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphpass import convert, evaluate
from graphpass_models.digits import INPUT_NAME, digits_model_path, load_digits
from graphpass_runtime.data import open_data
from graphpass_runtime.session import Session

STEPS = (2, 4, 8, 16)


@dataclass(frozen=True)
class DemoRow:
    """Accuracy of one network on the held-out digits."""

    model: str
    form: str
    samples: int
    accuracy: float
    agreement: float | None

    @property
    def agreed(self) -> str:
        """Agreement with the ANN, as text."""
        return "" if self.agreement is None else f"{100 * self.agreement:.2f} %"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def run(
    stages: str | Path, progress: Callable[[str, int | None], Callable[[int], None]]
) -> list[DemoRow]:
    """Convert `digits_cnn.onnx` and measure; calibrated on training digits only.

    Args:
        stages: folder for the stage files of the last conversion, with the SNN.
        progress: as for `graphpass.convert`.

    Raises:
        GraphpassError: scikit-learn, which has the digits, is not installed, or the
            folder cannot be written.
    """
    digits, ann = load_digits(), digits_model_path()
    calibration = [
        {INPUT_NAME: digits.train_images[start : start + 10]}
        for start in range(0, len(digits.train_images), 10)
    ]
    held_out = [{INPUT_NAME: digits.test_images, "labels": digits.test_labels}]
    reference = Session(ann)

    def measure(name: str, form: str, session: Session, other: Session | None) -> DemoRow:
        data = open_data(held_out, session.inputs)
        result = evaluate(session, data, reference=other)
        accuracy = result.accuracy
        assert accuracy is not None, "the digits have labels"
        return DemoRow(name, form, result.samples, accuracy, result.agreement)

    rows = [measure("ANN", "", reference, None)]
    folder = Path(stages)
    with tempfile.TemporaryDirectory() as scratch:
        snn = Path(scratch) / "snn.onnx"
        for steps in STEPS:
            record = convert(
                ann, snn, steps=steps, data=calibration, stages=folder, progress=progress
            ).record
            rows.append(measure(f"SNN, T = {steps}", str(record.form), Session(snn), reference))
        shutil.copyfile(snn, folder / "snn.onnx")
    return rows
