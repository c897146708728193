"""Handwritten digits for the demo and the tests, and the networks trained on them.

The images are those that scikit-learn carries: 1,797 greyscale digits of 8x8 pixels
from the test part of the UCI "Optical Recognition of Handwritten Digits" data.
Nothing here needs torch. ``python -m graphpass_models.digits`` prints the held-out
accuracy of every network in this package.
"""

from __future__ import annotations

import importlib.resources
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.errors import DataError, ModelError, OptionError

MODELS = ("digits_cnn", "digits_qcfs_l8", "digits_qcfs_l8_dynamo")
INPUT_NAME = "image"
OUTPUT_NAME = "logits"
HELD_OUT_PER_CLASS = 50
SPLIT_SEED = 20260822
_BRIGHTEST = 16.0  # the data counts set bits in 4x4 blocks


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits, split into two parts that share no image.

    Attributes:
        train_images: float32 ``[1297, 1, 8, 8]``, 0 (paper) to 1 (ink).
        train_labels: int64 ``[1297]``, 0 to 9.
        test_images: float32 ``[500, 1, 8, 8]``, held out, 50 of every class.
        test_labels: int64 ``[500]``.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load_digits() -> Digits:
    """The digits, the same split every time.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed",
            remedy="pip install graphpass[demo]",
        ) from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = (pixels / _BRIGHTEST).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    train, test = split_indices(labels)
    return Digits(images[train], labels[train], images[test], labels[test])


def split_indices(labels: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the training and of the held-out images, both ascending.

    Args:
        labels: int64 ``[N]``, more than 50 of every class.
    """
    # RandomState: its stream is frozen, that of numpy's newer generators is not.
    random = np.random.RandomState(SPLIT_SEED)
    held_out = np.zeros(labels.size, dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held_out[random.permutation(members)[:HELD_OUT_PER_CLASS]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def digits_model_path(name: str = "digits_cnn") -> Path:
    """Path of a trained network in this package.

    Args:
        name: one of `MODELS`.

    Raises:
        OptionError: there is no network of that name.
        ModelError: the network was not installed with the package.
    """
    if name not in MODELS:
        raise OptionError(f"no digits network '{name}'", remedy=f"choose from {', '.join(MODELS)}")
    path = Path(str(importlib.resources.files("graphpass_models") / f"{name}.onnx"))
    if not path.is_file():
        raise ModelError("the file is missing", where=str(path), remedy="install graphpass again")
    return path


def held_out_accuracy(path: str | Path, digits: Digits) -> float:
    """Share of the held-out digits, 0 to 1, that an ONNX file gets right on the CPU.

    The file takes ``image`` as float32 ``[N, 1, 8, 8]``; its first output is the logits.

    Raises:
        OptionError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise OptionError(
            "running a network needs ONNX Runtime", remedy="pip install graphpass[cpu]"
        ) from error
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = session.run(None, {INPUT_NAME: digits.test_images})[0]
    return float(np.mean(np.argmax(logits, axis=1) == digits.test_labels))


def main() -> None:
    """Print the held-out accuracy of every network in this package."""
    digits = load_digits()
    for name in MODELS:
        path = digits_model_path(name)
        accuracy = held_out_accuracy(path, digits)
        size = path.stat().st_size
        sys.stdout.write(f"{path.name:28} {accuracy:7.2%}  {size:7,} bytes\n")


if __name__ == "__main__":
    main()
