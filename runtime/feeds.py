"""What a model's inputs ask for, and cutting a batch into what fits.

The batch is axis 0. An input carries it when its axis 0 is symbolic in the file,
or, in a file without any such input, when all inputs have the same literal axis 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.errors import DataError, ModelError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FedModel:
    """A model as bytes that reads its large weights as inputs, and what to feed in every run.

    On the CPU, ONNX Runtime reads inputs where they lie; of weights in a model it makes copies.
    """

    content: bytes
    weights: Mapping[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the tensor's name.
        dtype: its NumPy dtype; `object` for strings.
        shape: an int is a literal dimension, a str a named one, None an unknown one.
            ONNX Runtime reports () for a scalar and for an unknown rank alike.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def fits(self, shape: Sequence[int], *, skip: int = 0) -> bool:
        """Whether an array of this shape can be fed, not looking at the first `skip` axes."""
        if not self.shape:
            return True  # perhaps an unknown rank: ONNX Runtime knows, we do not
        return len(shape) == len(self.shape) and all(
            got == want
            for got, want in zip(shape[skip:], self.shape[skip:], strict=True)
            if isinstance(want, int)
        )

    def __str__(self) -> str:
        """Like ``float32[N,3,32,32]``, with ? for an unknown dimension."""
        dims = ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.dtype}[{dims}]"


def describe(array: Array) -> str:
    """An array in the notation of `TensorSpec`, like ``float32[10,3,32,32]``."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def batch_inputs(specs: Sequence[TensorSpec]) -> tuple[tuple[str, ...], int | None]:
    """The inputs that carry the batch on axis 0, and its size where the file fixes it.

    Returns:
        Names, and the literal batch size; None when it is symbolic. No names when
        the inputs have different literal sizes: then nothing can be said.
    """
    ranked = [spec for spec in specs if spec.shape]
    symbolic = tuple(spec.name for spec in ranked if not isinstance(spec.shape[0], int))
    if symbolic:
        return symbolic, None
    sizes = {spec.shape[0] for spec in ranked}
    size = sizes.pop() if len(sizes) == 1 else None
    if not isinstance(size, int) or size < 1:
        return (), None
    return tuple(spec.name for spec in ranked), size


def zeros(specs: Sequence[TensorSpec], *, where: str | None = None) -> dict[str, Array]:
    """One sample of zeros; axis 0 is 1 where it is free.

    Raises:
        DataError: another axis is free too.
    """
    arrays = {}
    for spec in specs:
        free = spec.shape[:1] if spec.shape and not isinstance(spec.shape[0], int) else ()
        fixed = [size for size in spec.shape[len(free) :] if isinstance(size, int)]
        if len(free) + len(fixed) != len(spec.shape):
            raise DataError(
                f"input {spec.name!r} is {spec}, of no fixed size", where=where, remedy="feed data"
            )
        arrays[spec.name] = np.zeros((*(1 for _ in free), *fixed), spec.dtype)
    return arrays


def check_feed(spec: TensorSpec, array: Array, *, batched: bool, where: str | None = None) -> None:
    """Compare one array with the input that it is for.

    Args:
        spec: the input.
        array: what is to be fed.
        batched: the input carries the batch, so axis 0 is free.
        where: what to call the source of the data in an error.

    Raises:
        DataError: another dtype, rank or literal dimension.
    """
    same_type = array.dtype == spec.dtype or (spec.dtype.kind == "O" and array.dtype.kind in "OUST")
    if not same_type or not spec.fits(array.shape, skip=int(batched)):
        raise DataError(f"input {spec.name!r} is {spec}, got {describe(array)}", where=where)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Part of a batch.

    Attributes:
        feeds: the arrays, those without a batch axis whole.
        size: rows of the batch axis, padding included.
        valid: how many of them are data; the rest repeats the last one.
        limit: the largest size of a chunk of this batch.
        whole: this is the batch as it came, neither cut nor padded.
    """

    feeds: dict[str, Array]
    size: int
    valid: int
    limit: int
    whole: bool


def split(
    feeds: Mapping[str, Array],
    batched: Sequence[str],
    *,
    literal: int | None,
    limit: int | None,
    where: str | None = None,
) -> Iterator[Chunk]:
    """Cut a batch into pieces along axis 0.

    Args:
        feeds: checked arrays for all inputs.
        batched: names of the inputs that carry the batch; empty = one piece.
        literal: the size that every piece must have, the last one padded; or None.
        limit: the largest size of a piece otherwise; None = one piece.
        where: what to call the model in an error.

    Raises:
        DataError: no rows, or inputs that differ in their number of rows.
        ModelError: memory does not hold a piece of the literal size.
    """
    rows = {name: len(feeds[name]) for name in batched}
    if not rows:
        yield Chunk(dict(feeds), 0, 0, 0, whole=True)
        return
    total = next(iter(rows.values()))
    if any(count != total for count in rows.values()):
        counts = ", ".join(f"{name!r} {count}" for name, count in rows.items())
        raise DataError(f"inputs differ in their number of samples: {counts}", where=where)
    if total == 0:
        raise DataError("the batch is empty", where=where, remedy="feed at least one sample")
    size = literal or min(limit or total, total)
    for start in range(0, total, size):
        valid = min(size, total - start)
        part = {name: feeds[name][start : start + size] for name in rows}
        if literal and valid < size:
            part = {name: _pad(array, size, where) for name, array in part.items()}
        rows_run = size if literal else valid
        yield Chunk({**feeds, **part}, rows_run, valid, size, whole=rows_run == total == valid)


def _pad(array: Array, size: int, where: str | None) -> Array:
    # The last row again, not zeros: whatever the model does to data, it can do to it.
    try:
        return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])
    except (MemoryError, ValueError) as error:
        raise ModelError(
            f"has a batch of {size:,} samples written into it, which memory does not hold",
            where=where,
            remedy="export the model with a symbolic batch",
        ) from error
