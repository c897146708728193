"""Reading `.npz` files that may be damaged or hostile.

Headers are read before data, and what they promise is checked against what the
archive declares, so that no small file can ask for a large amount of memory.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from graphpass_runtime.errors import DataError

_LARGEST = 16 << 30  # bytes, uncompressed, of all arrays of a file together

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # an encrypted member; NotImplementedError (odd compression) is one too
    SyntaxError,  # in a header, and so are the next two
    TokenError,
    MemoryError,
)


@dataclass(frozen=True)
class ArrayInfo:
    """What the header of an array says."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class NpzFile:
    """The arrays of an `.npz` file, read one by one on request.

    Args:
        path: the file.

    Attributes:
        arrays: key -> dtype and shape, from the headers alone.
        where: what to call the file in an error.

    Raises:
        DataError: no such file, no `.npz`, damaged, too large, or pickled objects.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self.where = os.fspath(path)
        try:
            with zipfile.ZipFile(self._path) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
                total = sum(member.file_size for member in members)
                if total > _LARGEST:
                    raise DataError(
                        f"holds {total >> 30} GiB uncompressed, more than {_LARGEST >> 30}",
                        where=self.where,
                        remedy="split it up",
                    )
                self.arrays = {
                    member.filename.removesuffix(".npy"): self._info(archive, member)
                    for member in members
                }
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def read(self, key: str) -> NDArray[Any]:
        """Load one array, in native byte order.

        Raises:
            DataError: the data is damaged or cut short.
        """
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{key}.npy") as stream:
                array: NDArray[Any] = npy_format.read_array(stream, allow_pickle=False)
        except _DAMAGE as error:
            raise self._damaged(error) from error
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _info(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> ArrayInfo:
        with archive.open(member) as stream:
            version = npy_format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = npy_format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = npy_format.read_array_header_2_0(stream)
            start = stream.tell()
        if dtype.hasobject:
            raise DataError(
                f"{member.filename.removesuffix('.npy')!r} holds pickled objects",
                where=self.where,
                remedy="save plain arrays",
            )
        size = start + math.prod(shape) * dtype.itemsize
        if max((size, *shape)) > member.file_size or min(shape, default=0) < 0:
            raise EOFError("an array is cut short")
        return ArrayInfo(dtype.newbyteorder("="), shape)

    def _damaged(self, error: Exception) -> DataError:
        if isinstance(error, FileNotFoundError):
            return DataError("no such file", where=self.where, remedy="check the path")
        return DataError(
            f"cannot be read as .npz ({str(error).splitlines()[0] if str(error) else 'damaged'})",
            where=self.where,
            remedy="check that the file is complete and made by numpy.savez",
        )
