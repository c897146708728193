"""The forms that data comes in, behind one interface: samples by index.

`data.open_data` chooses among them. A source checks everything that it can when it
is made, and holds images as uint8 or on disk: batches are prepared as they are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.errors import DataError
from graphpass_runtime.feeds import Array, TensorSpec, batch_inputs, check_feed, describe
from graphpass_runtime.images import SUFFIXES, open_image
from graphpass_runtime.npz import NpzFile
from graphpass_runtime.preprocess import Preprocess

Labels = NDArray[np.int64]
Indices = NDArray[np.intp]

_FINITE_CHECK_ROWS = 1024


class Source(Protocol):
    """Samples that can be fetched by index."""

    count: int
    labels: Labels | None

    def fetch(self, indices: Indices) -> dict[str, Array]:
        """The model's feeds for these samples; indices increase."""


class ArraySource:
    """An `.npz` file that holds every input of the model, fed as it is.

    Args:
        file: the file.
        inputs: the model's inputs.

    Raises:
        DataError: dtype, shape or length do not fit, or a value is not finite.
    """

    def __init__(self, file: NpzFile, inputs: Sequence[TensorSpec]) -> None:
        names, _ = batch_inputs(inputs)
        for spec in inputs:
            info = file.arrays[spec.name]
            # Checked on a stand-in without memory: nothing is loaded that cannot be fed.
            stand_in = np.broadcast_to(np.empty((), info.dtype), info.shape)
            check_feed(spec, stand_in, batched=spec.name in names, where=file.where)
        self._arrays = {spec.name: file.read(spec.name) for spec in inputs}
        self._batched = names
        for name, array in self._arrays.items():
            check_finite(array, name, where=file.where)
        counts = {name: len(self._arrays[name]) for name in names}
        # A model without any batch axis takes the file as its one sample.
        self.count = next(iter(counts.values()), 1)
        if any(count != self.count for count in counts.values()):
            listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            raise DataError(f"arrays differ in length: {listed}", where=file.where)
        labels_are_input = any(spec.name == "labels" for spec in inputs)
        self.labels = None if labels_are_input else read_labels(file, self.count)

    def fetch(self, indices: Indices) -> dict[str, Array]:
        """The model's feeds for these samples."""
        return {
            name: array[indices] if name in self._batched else array
            for name, array in self._arrays.items()
        }


class ImageArraySource:
    """An `.npz` file with uint8 `images` and, perhaps, `labels`.

    Args:
        file: the file.
        target: the model's input.
        preprocess: how images become that input.

    Raises:
        DataError: no uint8 NHWC images, or labels of another length.
    """

    def __init__(self, file: NpzFile, target: TensorSpec, preprocess: Preprocess) -> None:
        info = file.arrays["images"]
        if info.dtype != np.uint8 or len(info.shape) != 4:
            raise DataError(
                f"'images' must be uint8[N,H,W,C], got {info.dtype} of shape {info.shape}",
                where=file.where,
                remedy=f"or name the array {target.name!r} to feed it as it is",
            )
        self.count = info.shape[0]
        self.labels = offset(read_labels(file, self.count), preprocess)
        self._images = file.read("images")
        self._target = target
        self._preprocess = preprocess
        self._where = file.where

    def fetch(self, indices: Indices) -> dict[str, Array]:
        """The model's feeds for these samples."""
        values = self._preprocess(self._images[indices])
        return {self._target.name: as_input(values, self._target, where=self._where)}


class FolderSource:
    """A folder of class folders of images; files are decoded as they are needed.

    A class folder named by a number is that label; otherwise the label is its place
    in the sorted order of names. A folder that holds images itself has no labels.

    Args:
        folder: the folder.
        target: the model's input.
        preprocess: how images become that input.

    Raises:
        DataError: numbers and names mixed, which would make labels clash.
    """

    def __init__(self, folder: Path, target: TensorSpec, preprocess: Preprocess) -> None:
        self._target = target
        self._preprocess = preprocess
        self._where = str(folder)
        channel_axis = -1 if preprocess.channels_last else 1
        self._grey = len(target.shape) == 4 and target.shape[channel_axis] == 1
        classes = [(label, _images(sub)) for label, sub in _class_folders(folder)]
        self._files = [file for _, files in classes for file in files]
        labels = [label for label, files in classes for _ in files]
        self.labels: Labels | None = offset(np.array(labels, np.int64), preprocess)
        if not classes:
            self._files, self.labels = _images(folder), None
        self.count = len(self._files)

    def fetch(self, indices: Indices) -> dict[str, Array]:
        """The model's feeds for these samples."""
        images = (open_image(self._files[i], grey=self._grey) for i in indices)
        values = self._preprocess.from_pil(images)
        return {self._target.name: as_input(values, self._target, where=self._where)}


def as_input(values: NDArray[np.float32], target: TensorSpec, *, where: str) -> Array:
    """Preprocessed images in the dtype of the model's input.

    Raises:
        DataError: the shape does not fit, or the dtype cannot hold the values.
    """
    array: Array = values
    if target.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = values.astype(target.dtype)
        exact = bool(np.isfinite(array).all())
    elif target.dtype.kind in "iu":
        limits = np.iinfo(target.dtype)
        exact = bool(((values >= limits.min) & (values <= limits.max)).all())
        if exact:
            array = values.astype(target.dtype)
            exact = bool((array == values).all())
    else:
        exact = False
    if not exact:
        raise DataError(
            f"preprocessed images cannot be given as {target.dtype} to input {target.name!r}",
            where=where,
            remedy="check rescale_factor, image_mean and image_std",
        )
    if not target.fits(array.shape, skip=1):
        raise DataError(
            f"input {target.name!r} is {target}, images are {describe(array)} after preprocessing",
            where=where,
            remedy="check size, crop_size and data_format of the preprocessing",
        )
    return array


def check_finite(array: Array, name: str, *, where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: the array holds one.
    """
    if array.dtype.kind not in "fc" or not array.size:
        return
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    for start in range(0, len(rows), _FINITE_CHECK_ROWS):  # the mask is as long as the data
        finite = np.isfinite(rows[start : start + _FINITE_CHECK_ROWS]).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{name!r} holds NaN or infinity in sample {start + int(np.argmin(finite))}",
                where=where,
                remedy="clean the data",
            )


def checked_labels(values: Array, count: int, *, where: str) -> Labels:
    """Labels as int64 ``[count]``.

    Raises:
        DataError: other than `count` whole numbers.
    """
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise DataError(
            f"'labels' must be whole numbers of shape [{count}], got {describe(values)}",
            where=where,
            remedy="give one class index per sample",
        )
    if len(values) != count:
        raise DataError(
            f"{len(values)} labels for {count} samples",
            where=where,
            remedy="give one class index per sample",
        )
    return values.astype(np.int64)


def read_labels(file: NpzFile, count: int) -> Labels | None:
    """The `labels` of an `.npz` file, None without any."""
    if "labels" not in file.arrays:
        return None
    return checked_labels(file.read("labels"), count, where=file.where)


def offset(labels: Labels | None, preprocess: Preprocess) -> Labels | None:
    """Labels in the numbering of the network."""
    return None if labels is None else labels + preprocess.label_offset


def _class_folders(folder: Path) -> list[tuple[int, Path]]:
    found = [entry for entry in _entries(folder) if entry.is_dir()]
    numbered = [sub for sub in found if re.fullmatch(r"[0-9]{1,9}", sub.name)]
    if numbered and len(numbered) < len(found):
        name = next(sub.name for sub in found if sub not in numbered)
        raise DataError(
            f"class folders are numbered ({numbered[0].name!r}) and named ({name!r})",
            where=str(folder),
            remedy="number all of them by label, or none",
        )
    if numbered:
        return sorted((int(sub.name), sub) for sub in found)
    return list(enumerate(found))


def _images(folder: Path) -> list[Path]:
    return [
        entry
        for entry in _entries(folder)
        if entry.suffix.lower() in SUFFIXES and not entry.is_dir()
    ]


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=str(folder), remedy="check the folder"
        ) from error
