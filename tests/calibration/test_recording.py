"""How many batches the currents are matched on."""

from __future__ import annotations

import numpy as np
import pytest

from graphpass import conversion_run, convert
from graphpass.calibration import recording
from graphpass_models.digits import INPUT_NAME, digits_model_path, load_digits


@pytest.mark.parametrize("samples", [1, 500, 640, 1000, 1024, 4000, 100_000])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_matching_does_not_grow_with_the_data(samples, batch):
    batches = -(-samples // batch)
    kept = len(range(0, batches, recording._stride(samples, batch)))
    assert min(batches, recording._PAIRED) <= kept
    assert min(samples, recording._PAIRED_SAMPLES) <= kept * batch
    assert kept < 2 * recording._PAIRED or kept * batch < 2 * recording._PAIRED_SAMPLES + batch


@pytest.mark.parametrize(
    ("size", "count", "matched"),
    [
        *((1, 32, 32), (1, 64, 64)),  # all, though there are so many batches
        *((1, 300, 128), (4, 64, 128)),  # no more than twice the fewest samples
        (32, 20, 320),  # every second batch
    ],
)
def test_small_batches_are_matched_on_as_many_samples_as_large_ones(
    size, count, matched, tmp_path, monkeypatch
):
    """Small ones stay small where the network does not compute samples by themselves."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    images = load_digits().train_images[: size * count]
    batches = [{INPUT_NAME: part} for part in np.split(images, count)]
    monkeypatch.setattr(conversion_run, "samples_are_independent", lambda *_: False)
    result = convert(
        digits_model_path(), tmp_path / "snn.onnx", steps=4, data=batches, threshold="mse"
    )
    assert result.record.calibration["passes"] == round(1 + matched / (size * count), 2)
