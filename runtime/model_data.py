"""Data for a model file: finding out how its images become inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphpass_runtime.data import Dataset, open_data
from graphpass_runtime.feeds import TensorSpec
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.preprocess import Preprocess

PathLike = str | os.PathLike[str]
Data = PathLike | Iterable[Mapping[str, Any]] | Dataset


def find_preprocess(
    files: Iterable[tuple[PathLike, FileRecord | None]], given: Preprocess | None = None
) -> Preprocess | None:
    """How images become inputs: what was given, else what a file or its sidecar says.

    Args:
        files: paths with what the file says about itself, the first that knows wins.
        given: overrides every file.

    Raises:
        DataError: a preprocessing configuration that makes no sense.
    """
    if given is not None:
        return given
    for path, record in files:
        if record is not None and record.preprocess is not None:
            return Preprocess.from_config(dict(record.preprocess), where=str(path))
        if (beside := Preprocess.sidecar(path)) is not None:
            return beside
    return None


def open_model_data(
    data: Data,
    inputs: Sequence[TensorSpec],
    files: Iterable[tuple[PathLike, FileRecord | None]],
    preprocess: Preprocess | None = None,
    samples: int | None = None,
) -> Dataset:
    """`open_data` with the preprocessing that the files ask for.

    Raises:
        DataError, OptionError: as `open_data`.
    """
    return open_data(data, inputs, find_preprocess(files, preprocess), samples=samples)
