"""ONNX files, large weights in a file beside them where protobuf ends; written whole or not."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from graphpass import large_weights
from graphpass.admission import first_line
from graphpass.large_weights import Array
from graphpass_runtime.errors import ModelError, OutputError

MOST_IN_ONE_FILE = (1 << 31) - (1 << 24)  # bytes of weights: protobuf ends at 2 GiB
_ALIGNED = 1 << 16  # weights start at multiples of this, so that any system can map them
_DIGITS = 16  # hexadecimal ones, in the name of a file of weights


def read(path: Path) -> tuple[onnx.ModelProto, list[Array]]:
    """The content of an ONNX file, and its weights, to which the content refers.

    Raises:
        ModelError: the file is missing, is not ONNX, is cut short, or wants data that is
            not there.
    """
    if not path.is_file():
        raise ModelError("no such file", where=str(path), remedy="check the path")
    try:
        # The format is named because onnx goes by the suffix: .json, .txt and others.
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
        mapped = large_weights.read_external(proto, path.parent)
    except DecodeError as error:
        raise ModelError(
            "not an ONNX file, or cut short",
            where=str(path),
            remedy="export or download the model again",
        ) from error
    except (FileNotFoundError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"external data cannot be read ({first_line(error)})",
            where=str(path),
            remedy="put the data file beside the model, under the name it was saved with",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot be read ({first_line(error)})", where=str(path)) from error
    proto, arrays = large_weights.take_out(proto)
    del mapped  # which are among them
    return proto, arrays


def check_writable(path: Path) -> None:
    """Fail before the work rather than after it.

    Raises:
        OutputError: nothing can be written there.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(
            "cannot be written",
            where=str(path),
            remedy="choose a file in a folder that exists and that you may write to",
        )


def write(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model; a reader sees the old file or the whole new one, never a part.

    Weights that do not fit into one file go to a second one, whose name ends with a digest of
    them: an old model keeps its own until the new one stands in its place.

    Args:
        proto: the model, with references; it is used up.
        path: where to.

    Raises:
        OutputError: the path cannot be written.
    """
    if large_weights.total(proto) <= MOST_IN_ONE_FILE:
        with atomic_file(path) as file:
            file.write(large_weights.fill(proto).SerializeToString(deterministic=True))
        return
    data = path.with_name(f"{path.name}.{_digest(proto)}.data")
    existed = data.exists()
    try:
        with atomic_file(data) as beside:
            for tensor in large_weights.references(proto):
                _move(tensor, beside, data.name)
        with atomic_file(path) as file:
            file.write(proto.SerializeToString(deterministic=True))
    except BaseException:
        if not existed:
            data.unlink(missing_ok=True)
        raise
    for old in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * _DIGITS}.data"):
        if old != data:
            old.unlink(missing_ok=True)


def _digest(proto: onnx.ModelProto) -> str:
    """Of the weights in their order."""
    state = hashlib.sha256()
    for tensor in large_weights.references(proto):
        state.update(np.ascontiguousarray(large_weights.array_of(tensor)).data)
    return state.hexdigest()[:_DIGITS]


def _move(tensor: onnx.TensorProto, file: BinaryIO, name: str) -> None:
    """Write the data of a reference, and let it refer to the file."""
    array = np.ascontiguousarray(large_weights.array_of(tensor))
    file.write(bytes(-file.tell() % _ALIGNED))
    entries = {"location": name, "offset": file.tell(), "length": array.nbytes}
    file.write(array.data)
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the block ends without error.

    Raises:
        OutputError: the folder is missing or cannot be written.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})",
            where=str(path),
            remedy="choose a folder that exists and that you may write to",
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(path), remedy="choose another path"
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    # The umask can only be read by setting it; mkstemp ignores it, a normal file does not.
    current = os.umask(0)
    os.umask(current)
    return current
