"""Small batches from Python are put together for calibration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from graphpass import conversion_run, convert
from graphpass_models.digits import INPUT_NAME, digits_model_path, load_digits
from graphpass_runtime.batch import Batch, joined


def batch(start: int, length: int, width: int = 2, other: float = 1.0) -> Batch:
    rows = np.arange(start, start + length)
    x = np.repeat(rows[:, None], width, 1).astype(np.float32)
    return Batch({"x": x, "scale": np.array([other])}, rows)


def always(_left: Batch, _right: Batch, _both: Batch) -> bool:
    return True


def lengths(batches: list[Batch], size: int) -> list[int]:
    return [len(found.feeds["x"]) for found in joined(iter(batches), ["x"], size, always)]


def test_as_many_as_fit_and_every_sample_once():
    batches = [batch(start, 1) for start in range(7)] + [batch(7, 2), batch(9, 9), batch(18, 1)]
    found = list(joined(iter(batches), ["x"], 4, always))
    assert [len(one.feeds["x"]) for one in found] == [4, 3, 2, 9, 1]
    rows = np.concatenate([one.feeds["x"][:, 0] for one in found])
    np.testing.assert_array_equal(rows, np.arange(19))
    np.testing.assert_array_equal(np.concatenate([one.labels for one in found]), np.arange(19))
    assert all(one.feeds["scale"].shape == (1,) for one in found)


def test_without_labels_there_are_none():
    plain = [Batch(batch(start, 1).feeds, None) for start in range(3)]
    assert [one.labels for one in joined(iter(plain), ["x"], 2, always)] == [None, None]


def test_what_differs_stays_apart():
    assert lengths([batch(0, 1), batch(1, 1, width=3), batch(2, 1, width=3)], 4) == [1, 2]
    assert lengths([batch(0, 1), batch(1, 1, other=2.0)], 4) == [1, 1]
    double = batch(1, 1)
    double.feeds["x"] = double.feeds["x"].astype(np.float64)
    assert lengths([batch(0, 1), double], 4) == [1, 1]


def test_a_generator_is_not_asked_for_more_than_a_full_batch():
    asked = []

    def batches() -> Iterator[Batch]:
        for start in range(4):
            asked.append(start)
            yield batch(start, 1)

    next(joined(batches(), ["x"], 2, always))
    assert asked == [0, 1]


@pytest.mark.parametrize("allowed", [True, False])
def test_it_is_asked_once_with_the_first_two_that_fit(allowed):
    asked = []

    def may_join(left: Batch, right: Batch, both: Batch) -> bool:
        asked.append([one.feeds["x"][:, 0].tolist() for one in (left, right, both)])
        return allowed

    batches = [batch(0, 4), batch(4, 1), batch(5, 2), batch(7, 1)]
    found = list(joined(iter(batches), ["x"], 4, may_join))
    assert [len(one.feeds["x"]) for one in found] == ([4, 4] if allowed else [4, 1, 2, 1])
    assert asked == [[[4], [5, 6], [4, 5, 6]]]


@pytest.mark.parametrize("calibrate", ["optimal", "paper"])
def test_images_one_by_one_give_the_network_of_whole_batches(tmp_path, calibrate):
    """Of a layer without pixels, one image tells no spread, and is its own mean."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    images = load_digits().train_images[:128]
    files = []
    for parts in (128, 4):
        data = [{INPUT_NAME: part} for part in np.split(images, parts)]
        files.append(tmp_path / f"{parts}.onnx")
        convert(
            *(digits_model_path(), files[-1]),
            **{"steps": 4, "data": data, "calib_batch": 32, "calibrate": calibrate, "threads": 1},
        )
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_conversion_finds_out_once_whether_it_may_join(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    asked = []
    found_out = conversion_run.samples_are_independent

    def counting(*arguments):
        asked.append(found_out(*arguments))
        return asked[-1]

    monkeypatch.setattr(conversion_run, "samples_are_independent", counting)
    data = [{INPUT_NAME: part} for part in np.split(load_digits().train_images[:16], 16)]
    convert(digits_model_path(), tmp_path / "snn.onnx", steps=4, data=data)
    assert asked == [True]
