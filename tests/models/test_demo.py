"""The demo: four conversions of the digits network, measured on held-out digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphpass_models.demo import STEPS, run
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.errors import GraphpassError


class Progress:
    """Writes down what is told about the progress."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None, int]] = []

    def __call__(self, title: str, samples: int | None) -> Callable[[int], None]:
        index = len(self.told)
        self.told.append((title, samples, 0))

        def advance(count: int) -> None:
            name, total, done = self.told[index]
            self.told[index] = (name, total, done + count)

        return advance


def test_demo(digits: Digits, tmp_path: Path, bare_run) -> None:
    progress = Progress()
    rows = run(tmp_path / "stages", progress)
    assert [row.model for row in rows] == ["ANN", *(f"SNN, T = {T}" for T in STEPS)]
    ann, *snns = rows
    assert (ann.form, ann.agreement, ann.agreed) == ("", None, "")
    assert {row.form for row in snns} == {"matmul"}
    assert {row.samples for row in rows} == {500}
    assert ann.accuracy == 0.99  # models/README.md
    assert snns[0].accuracy < snns[-1].accuracy
    assert snns[-1].accuracy >= 0.985
    assert snns[0].agreement < snns[-1].agreement

    written = sorted(path.name for path in (tmp_path / "stages").iterdir())
    stages = "0-normalised 1-clip 2-daqcfs 3-calibrated 4-spiking snn".split()
    assert written == [f"{name}.onnx" for name in stages]
    # The rows are what the files give in ONNX Runtime alone.
    feeds = {"image": digits.test_images}
    answers = {
        name: bare_run(path, feeds)["logits"].argmax(axis=1)
        for name, path in (
            ("ann", digits_model_path()),
            ("snn", tmp_path / "stages" / "snn.onnx"),
        )
    }
    assert np.mean(answers["snn"] == digits.test_labels) == snns[-1].accuracy
    assert np.mean(answers["snn"] == answers["ann"]) == snns[-1].agreement
    # All training digits and none of the held-out ones, for thresholds and for calibration.
    titles = [title for title, _, _ in progress.told]
    assert titles == [
        "recording thresholds",
        "measuring sensitivities",
        "recording currents",
        "choosing thresholds",
        "matching currents",
    ] * len(STEPS)
    passes = {(total, done) for title, total, done in progress.told if "recording" in title}
    assert passes == {(1297, 1297)}
    assert all(total == done for _, total, done in progress.told)


def test_rows_as_json(tmp_path: Path) -> None:
    from graphpass_models.demo import DemoRow

    row = DemoRow("SNN, T = 2", "matmul", 500, 0.926, 0.924)
    assert row.to_json() == {
        "model": "SNN, T = 2",
        "form": "matmul",
        "samples": 500,
        "accuracy": 0.926,
        "agreement": 0.924,
    }
    assert row.agreed == "92.40 %"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GraphpassError, match="file"):
        run(tmp_path / "file", Progress())
