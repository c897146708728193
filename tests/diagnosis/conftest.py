"""The digits network with its neurons, and some digits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from graphpass import Session, convert
from graphpass.diagnosis.substitution import Substitution, load_ann
from graphpass.running import open_session
from graphpass_models.digits import Digits, digits_model_path

CNN = digits_model_path("digits_cnn")


@pytest.fixture(scope="session")
def stage_files(digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stages of digits_cnn at T = 4, all activations spiking."""
    folder = tmp_path_factory.mktemp("diagnosis")
    convert(
        CNN,
        folder / "snn.onnx",
        **{"steps": 4, "data": digits_npz[0], "first_activation": "spiking", "stages": folder},
    )
    return folder


@pytest.fixture
def net(stage_files: Path) -> Substitution:
    """The network with switches."""
    record = Session(stage_files / "3-calibrated.onnx").record
    assert record is not None
    return Substitution(load_ann(CNN), record.neurons, partial(open_session, provider="cpu"))


@pytest.fixture
def images(digits: Digits) -> NDArray[np.float32]:
    """Digits that calibration has not seen."""
    return digits.test_images[:24]
