"""Bad data and options: each is one line, exit code 2, and nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
Refuse = Callable[..., str]
Check = Callable[..., str]
CNN = digits_model_path("digits_cnn")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((4, 1, 9, 8), np.float32)}, ("image", "[4,1,9,8]")),
        ({"image": np.zeros((4, 1, 8, 8), np.float64)}, ("image", "float64")),
        ({"image": np.zeros((4, 8, 8), np.float32)}, ("image",)),
        ({"picture": np.zeros((4, 1, 8, 8), np.float32)}, ("image", "picture")),
        ({"image": np.full((4, 1, 8, 8), np.nan, np.float32)}, ("image",)),
        ({"image": np.full((4, 1, 8, 8), np.inf, np.float32)}, ("image",)),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, ("no samples",)),
        ({"image": np.array([{"a": 1}], dtype=object)}, ("data.npz",)),
        ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, ("mean and std",)),
    ],
    ids="shape dtype rank name nan inf empty pickled images".split(),
)
def test_data_that_does_not_fit(
    arrays: dict[str, Any], words: tuple[str, ...], refuse: Refuse, tmp_path: Path
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    refuse(CNN, *words, data=path)


def test_nan_in_the_last_batch(refuse: Refuse, tmp_path: Path) -> None:
    images = np.zeros((35, 1, 8, 8), np.float32)
    images[34, 0, 3, 3] = np.nan
    np.savez(tmp_path / "data.npz", image=images)
    refuse(CNN, "image", data=tmp_path / "data.npz")


def test_missing_data(one_line_error: Check, cli: Cli, refuse: Refuse, tmp_path: Path) -> None:
    refuse(CNN, "nowhere.npz", "no such file", data=tmp_path / "nowhere.npz")
    result = cli("convert", CNN, "-o", tmp_path / "snn.onnx", "--steps", 4)
    one_line_error(result, "calibration data is needed", "give --data")


def test_data_that_is_no_npz(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 and then nothing")
    refuse(CNN, "data.npz", data=tmp_path / "data.npz")


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', '{"image_mean": "red"}', '{"rescale_factor": []}', None]
)
def test_bad_preprocess_file(text: str | None, refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    if text is not None:
        path.write_text(text)
    refuse(CNN, "own.json", options=("--preprocess", path))


def test_bad_sidecar(refuse: Refuse, tmp_path: Path) -> None:
    ann = tmp_path / "ann.onnx"
    ann.write_bytes(CNN.read_bytes())
    (tmp_path / "ann.preprocess.json").write_text("{")
    refuse(ann, "ann.preprocess.json")


def test_mean_and_std(refuse: Refuse, tmp_path: Path) -> None:
    refuse(CNN, "--mean and --std belong together", options=("--mean", "0.5"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--std", "0.5"), "--mean and --std belong together"),
        (("--mean", "a,b", "--std", "1,1"), "--mean 'a,b' is no list of numbers"),
        (("--mean", "0.5", "--std", "0"), "std"),
        (("--mean", "nan", "--std", "1"), "mean"),
    ],
)
def test_mean_and_std_that_make_no_sense(
    options: tuple[str, ...], words: str, refuse: Refuse
) -> None:
    refuse(CNN, words, options=options)


def test_preprocess_and_mean_exclude_each_other(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{}")
    options = ("--preprocess", tmp_path / "own.json", "--mean", "0", "--std", "1")
    refuse(CNN, "exclude each other", options=options)


@pytest.mark.parametrize(
    ("steps", "word"),
    [(("--steps", 0), "T = 0"), (("--steps", -1), "T = -1"), ((), "no number of time-steps")],
)
def test_steps(steps: tuple[object, ...], word: str, refuse: Refuse) -> None:
    refuse(CNN, word, steps=steps)


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize(
    "option", ["--samples", "--threads", "--calib-batch", "--passes", "--population"]
)
def test_numbers_below_one(option: str, number: int, refuse: Refuse) -> None:
    refuse(CNN, option.strip("-"), options=(option, number))


def test_too_many_neurons_for_each_value(refuse: Refuse) -> None:
    refuse(CNN, "use 1 to 16", options=("--population", 17))


def test_unknown_name_to_keep(refuse: Refuse) -> None:
    refuse(CNN, "no activation 'relu_99'", options=("--keep", "relu_99"))


def test_cuda_where_there_is_none(
    one_line_error: Check, cli: Cli, refuse: Refuse, snn: Path, digits_npz: tuple[Path, Path]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows CUDA")
    refuse(CNN, "cuda", options=("--provider", "cuda"))
    for command in (
        ("evaluate", snn, "--data", digits_npz[1]),
        ("verify", CNN, snn, "--data", digits_npz[1]),
    ):
        one_line_error(cli(*command, "--provider", "cuda"))


def test_output_that_cannot_be_written(refuse: Refuse, tmp_path: Path) -> None:
    refuse(CNN, str(tmp_path), "cannot be written", output=tmp_path)
    refuse(CNN, "cannot be written", output=tmp_path / "no" / "snn.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_without_permission(refuse: Refuse, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refuse(CNN, "cannot be written", output=folder / "snn.onnx")
