"""Data for a model: batches of inputs, with labels where there are any."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphpass_runtime.batch import Batch, joined
from graphpass_runtime.datasets import (
    ArraySource,
    FolderSource,
    ImageArraySource,
    Indices,
    Source,
    check_finite,
    checked_labels,
)
from graphpass_runtime.errors import DataError, OptionError
from graphpass_runtime.feeds import TensorSpec, batch_inputs, check_feed
from graphpass_runtime.npz import NpzFile
from graphpass_runtime.preprocess import Preprocess

__all__ = ["Batch", "Dataset", "open_data"]

_LABELS = "labels"
_PYTHON = "data"  # what data from Python is called in an error


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples that can be read in order, as often as one likes.

    Attributes:
        samples: how many there are; None for an iterable that does not say.
        labelled: whether batches have labels.
    """

    samples: int | None
    labelled: bool
    _read: Callable[[int], Iterator[Batch]]
    _choose: Callable[[Indices], Dataset] | None = None
    _thin: Callable[[int], Dataset] | None = None

    def batches(self, size: int) -> Iterator[Batch]:
        """Read from the start, the same every time.

        Args:
            size: samples per batch, fewer in the last one. An iterable of input dicts
                keeps its own batches.

        Raises:
            OptionError: a size below 1.
            DataError: bad data that shows only when it is read.
        """
        if size < 1:
            raise OptionError(f"batch size is {size}", remedy="give 1 or more")
        return self._read(size)

    def chosen_batches(self, size: int, numbers: Collection[int]) -> Iterator[tuple[int, Batch]]:
        """The same batches, but only these, each with its number.

        Args:
            size: samples per batch, as for `batches`.
            numbers: which ones, counted from 0; others are not read where they need not be.

        Raises:
            OptionError: a size below 1.
            DataError: bad data that shows only when it is read.
        """
        if self._choose is None or self.samples is None:
            return (found for found in enumerate(self.batches(size)) if found[0] in numbers)
        chosen = np.isin(np.arange(self.samples) // max(1, size), list(numbers))
        batches = self._choose(np.flatnonzero(chosen)).batches(size)
        return zip(sorted(numbers), batches, strict=False)  # there may be no such batch

    def thinned(self, samples: int) -> Dataset:
        """So many samples, spread evenly; all of them where there are no more.

        Of an iterable without a length, the first ones; a generator stays as it is.
        """
        return self if self._thin is None else self._thin(samples)

    def merged(
        self, batched: Collection[str], may_join: Callable[[Batch, Batch, Batch], bool]
    ) -> Dataset:
        """The same samples; small batches of an iterable are joined, up to the size asked for.

        Args:
            batched: the inputs that have samples on axis 0. Batches are joined only where
                these differ in nothing but length, and the others in nothing.
            may_join: whether the first two such batches may, given them and both as one;
                if not, none are.
        """
        if self._choose is not None or not batched:
            return self
        thin = self._thin
        return replace(
            self,
            _read=lambda size: joined(self._read(size), batched, size, may_join),
            _thin=None if thin is None else lambda fewer: thin(fewer).merged(batched, may_join),
        )

    def hold_out(self, every: int) -> tuple[Dataset, Dataset]:
        """Split the samples: all but each `every`-th one, and these.

        Raises:
            DataError: too few samples, or an iterable, which has no random access.
        """
        if self._choose is None or self.samples is None:
            raise DataError(
                "samples from an iterable cannot be held out",
                where=_PYTHON,
                remedy="give a path, or data of its own to judge on",
            )
        if self.samples < every:
            raise DataError(
                f"{self.samples} samples are too few to hold out 1 in {every}",
                remedy="give more samples, or data of its own to judge on",
            )
        held = np.arange(self.samples) % every == every - 1
        return self._choose(np.flatnonzero(~held)), self._choose(np.flatnonzero(held))


def open_data(
    data: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | Dataset,
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    samples: int | None = None,
) -> Dataset:
    """Open data of any form that graphpass knows.

    Args:
        data: an `.npz` file that has every input of the model among its keys, which
            is fed as it is, labels included; an `.npz` file with `images` (uint8 NHWC);
            a folder of class folders of images; or an iterable of input dicts, each
            one a batch. The `.npz` forms and the dicts may have `labels`. A `Dataset` for
            these inputs stays as it is.
        inputs: the model's inputs.
        preprocess: how images become its input; None when not known.
        samples: take so many samples, spread evenly over the set, in order: folders,
            and many files, are sorted by class, so that the first ones would be of one
            class. More than there are = all. Of an iterable without a length, the first ones.

    Raises:
        DataError: data that cannot be read or does not fit the model.
        OptionError: `samples` below 1.
    """
    if samples is not None and samples < 1:
        raise OptionError(f"samples is {samples}", remedy="give 1 or more")
    if isinstance(data, Dataset):
        return data if samples is None else data.thinned(samples)
    if isinstance(data, str | os.PathLike):
        return _indexed(_open_path(Path(data), inputs, preprocess), str(data), samples)
    if isinstance(data, Mapping):
        data = [data]
    if not isinstance(data, Iterable) or isinstance(data, np.ndarray | bytes):
        raise DataError(
            f"data is a {type(data).__name__}",
            remedy="give a path, or an iterable of dicts of input name to array",
        )
    return _iterated(data, inputs, samples)


def spread(count: int, samples: int | None) -> Indices:
    """Indices of `samples` samples, spread evenly over `count`, increasing."""
    if samples is None or samples >= count:
        return np.arange(count)
    return np.arange(samples) * count // samples


def _open_path(path: Path, inputs: Sequence[TensorSpec], preprocess: Preprocess | None) -> Source:
    where = str(path)
    if not path.exists():
        raise DataError("no such file or folder", where=where, remedy="check the path")
    names = [spec.name for spec in inputs]
    file = None if path.is_dir() else NpzFile(path)
    if file is not None:
        if all(name in file.arrays for name in names) and not _means_images(file, inputs):
            return ArraySource(file, inputs)
        if "images" not in file.arrays:
            raise DataError(
                f"has neither 'images' nor the model's inputs ({', '.join(names)})",
                where=where,
                remedy=f"its keys are {', '.join(file.arrays) or 'none'}",
            )
    if len(inputs) != 1:
        raise DataError(
            f"images feed one input, the model has {len(inputs)}",
            where=where,
            remedy=f"give an .npz with the keys {', '.join(names)}",
        )
    if preprocess is None:
        raise DataError(
            "how images become the model's input is not known",
            where=where,
            remedy="give a file MODEL.preprocess.json beside the model, or mean and std",
        )
    if file is None:
        return FolderSource(path, inputs[0], preprocess)
    return ImageArraySource(file, inputs[0], preprocess)


def _means_images(file: NpzFile, inputs: Sequence[TensorSpec]) -> bool:
    # The input of some models is itself called "images": uint8 arrays of that name
    # are pictures all the same, unless the model wants uint8.
    return (
        [spec.name for spec in inputs] == ["images"]
        and file.arrays["images"].dtype == np.uint8
        and inputs[0].dtype != np.uint8
    )


def _indexed(source: Source, where: str, samples: int | None) -> Dataset:
    if source.count == 0:
        raise DataError("holds no samples", where=where, remedy="check the data")
    return _chosen(source, spread(source.count, samples))


def _chosen(source: Source, chosen: Indices) -> Dataset:
    def read(size: int) -> Iterator[Batch]:
        for start in range(0, len(chosen), size):
            indices = chosen[start : start + size]
            labels = None if source.labels is None else source.labels[indices]
            yield Batch(source.fetch(indices), labels)

    return Dataset(
        len(chosen),
        source.labels is not None,
        read,
        lambda rows: _chosen(source, chosen[rows]),
        lambda fewer: _chosen(source, chosen[spread(len(chosen), fewer)]),
    )


def _iterated(
    data: Iterable[Mapping[str, Any]], inputs: Sequence[TensorSpec], samples: int | None
) -> Dataset:
    iterator = iter(data)
    once = iterator is data  # a generator: it can be read one time only
    first = next(iterator, None)
    if first is None:
        raise DataError("holds no samples", where=_PYTHON, remedy="check the data")
    labelled = _python_batch(first, inputs, 0).labels is not None
    unread = [itertools.chain([first], iterator)] if once else []  # taken by the first pass
    count = None
    if isinstance(data, Sequence):
        count = sum(_length(_python_batch(item, inputs, i), inputs) for i, item in enumerate(data))

    def read(_: int) -> Iterator[Batch]:
        if once and not unread:
            raise DataError(
                "a generator can be read only once",
                where=_PYTHON,
                remedy="give a list, or an object whose __iter__ starts again",
            )
        start = 0
        for number, item in enumerate(unread.pop() if once else data):
            batch = _python_batch(item, inputs, number)
            if (batch.labels is not None) != labelled:
                raise DataError(
                    f"batch {number} {'lacks' if labelled else 'has'} labels, unlike the first",
                    where=_PYTHON,
                    remedy="label all batches or none",
                )
            length = _length(batch, inputs)
            rows = _wanted(start, length, count, samples)
            if len(rows):
                yield batch if len(rows) == length else _rows(batch, inputs, rows)
            start += length
            if count is None and samples is not None and start >= samples:
                return  # without asking a generator for more

    known = None if count is None else len(spread(count, samples))

    def thin(fewer: int) -> Dataset:
        return _iterated(data, inputs, fewer if samples is None else min(fewer, samples))

    return Dataset(known, labelled, read, _thin=None if once else thin)


def _wanted(start: int, length: int, count: int | None, samples: int | None) -> Indices:
    """Which rows of a batch to take, that begins at sample `start` of the data."""
    if samples is None:
        return np.arange(length)
    if count is None:
        # What does not say how long it is can only give its first samples.
        return np.arange(min(length, max(0, samples - start)))
    chosen = spread(count, samples)
    return chosen[(chosen >= start) & (chosen < start + length)] - start


def _python_batch(item: Mapping[str, Any], inputs: Sequence[TensorSpec], number: int) -> Batch:
    """Check one input dict from Python."""
    where = f"{_PYTHON}, batch {number}"
    if not isinstance(item, Mapping):
        raise DataError(
            f"is a {type(item).__name__}", where=where, remedy="give dicts of input name to array"
        )
    batched, _ = batch_inputs(inputs)
    feeds = {}
    for spec in inputs:
        if spec.name not in item:
            raise DataError(
                f"has no {spec.name!r}",
                where=where,
                remedy=f"the model's inputs are {', '.join(each.name for each in inputs)}",
            )
        array = np.asarray(item[spec.name])
        check_feed(spec, array, batched=spec.name in batched, where=where)
        check_finite(array, spec.name, where=where)
        feeds[spec.name] = array
    counts = {len(feeds[name]) for name in batched}
    if len(counts) > 1 or 0 in counts:
        problem = "is empty" if 0 in counts else f"has inputs of different lengths {sorted(counts)}"
        raise DataError(problem, where=where, remedy="give every input the same samples")
    labels = None
    if _LABELS in item and _LABELS not in feeds:
        count = counts.pop() if counts else 1
        labels = checked_labels(np.asarray(item[_LABELS]), count, where=where)
    return Batch(feeds, labels)


def _length(batch: Batch, inputs: Sequence[TensorSpec]) -> int:
    batched, _ = batch_inputs(inputs)
    return len(batch.feeds[batched[0]]) if batched else 1


def _rows(batch: Batch, inputs: Sequence[TensorSpec], rows: Indices) -> Batch:
    """Some samples of a batch."""
    batched, _ = batch_inputs(inputs)
    feeds = {name: array[rows] if name in batched else array for name, array in batch.feeds.items()}
    return Batch(feeds, None if batch.labels is None else batch.labels[rows])
