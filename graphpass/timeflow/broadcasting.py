"""The common type of operands under NumPy broadcasting."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from graphpass.timeflow.types import Refusal, TimeType
from graphpass.timeflow.view import Verdict, View, kind_of, not_understood


def broadcast(view: View) -> Verdict:
    """Common type of operands under NumPy broadcasting."""
    ranks = [view.rank(i) for i in range(len(view.types))]
    if any(r is None for r in ranks):
        return not_understood("broadcasts a tensor of unknown rank")
    rank = max(r for r in ranks if r is not None)
    batch: set[tuple[int, int]] = set()
    channels: set[int] = set()
    for index in range(len(view.types)):
        kind, offset = view.type(index), rank - (ranks[index] or 0)
        if kind.batch_axis is not None:
            batch.add((kind.batch_axis + offset, kind.inner))
        if kind.channel_axis is not None:
            channels.add(kind.channel_axis + offset)
    if len(batch) > 1:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    batch_axis, inner = batch.pop() if batch else (None, 1)
    if (refusal := literal_batch(view, rank, batch_axis)) is not None:
        return refusal
    return TimeType(
        kind_of(view), batch_axis, channels.pop() if len(channels) == 1 else None, inner=inner
    )


def along_channels(view: View, index: int, constant: NDArray[Any]) -> bool:
    """Does a constant operand differ along the channels of the one at `index` only?"""
    rank = view.rank(index) or 0
    along = [axis + rank - constant.ndim for axis, size in enumerate(constant.shape) if size > 1]
    return all(axis == view.type(index).channel_axis for axis in along)


def literal_batch(view: View, rank: int, batch_axis: int | None) -> Refusal | None:
    """An operand that does not carry the batch must have size 1 there, or no such axis."""
    for index in range(len(view.types)):
        shape = view.shape(index) or []
        axis = -1 if batch_axis is None else batch_axis - rank + len(shape)
        if view.type(index).batch_axis is None and axis >= 0 and shape[axis] != 1:
            return Refusal(
                f"an operand has the literal size {shape[axis]} on the batch axis",
                "export the model with a symbolic batch",
            )
    return None
