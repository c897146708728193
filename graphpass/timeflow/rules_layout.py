"""Rules of operators that only move, select or merge elements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType
from graphpass.timeflow.view import Verdict, View, is_zero, kind_of, not_understood, rule

_MIXES = Refusal("works along the batch axis, so it mixes samples", "remove it")
# Stand-ins for the batch size when a Reshape is traced; primes larger than any axis.
_PROBE = 1_000_003


@rule("Transpose")
def transpose(view: View) -> Verdict:
    """Permutes axes."""
    rank = view.rank()
    if rank is None:
        return not_understood("transposes a tensor of unknown rank")
    order = [int(axis) for axis in view.attr("perm", range(rank)[::-1])]
    return _moved(view.type(), order.index)


@rule("Squeeze")
def squeeze(view: View) -> Verdict:
    """Drops axes of size 1."""
    rank, shape = view.rank(), view.shape()
    axes = None if rank is None else view.axes(1, rank)
    if rank is None or shape is None:
        return not_understood("squeezes a tensor of unknown rank")
    if view.hidden:
        return not_understood("squeezes axes that are not constant")
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if view.type().batch_axis in axes:
        return _MIXES
    return _moved(view.type(), [a for a in range(rank) if a not in axes].index)


@rule("Unsqueeze")
def unsqueeze(view: View) -> Verdict:
    """Inserts axes of size 1."""
    rank = view.rank()
    given = view.attr("axes")
    if given is None and (array := view.constant(1)) is not None:
        given = array.ravel().tolist()
    if rank is None or given is None:
        return not_understood("inserts axes that are not constant")
    full = rank + len(given)
    new = {int(axis) % full for axis in given}
    return _moved(view.type(), [a for a in range(full) if a not in new].__getitem__)


@rule("Flatten")
def flatten(view: View) -> Verdict:
    """Two axes are left: those before `axis` and those from it on."""
    shape = view.shape()
    if shape is None:
        return not_understood("flattens a tensor of unknown rank")
    axis = int(view.attr("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    if axis == 1 and view.type().batch_axis == 0:
        return _reshaped(view.type(), shape, [0, -1])
    if None in _sizes(shape, view.type()):
        return not_understood("flattens a tensor of unknown size")
    sizes = [int(size) for size in _sizes(shape, view.type()) if size is not None]
    target = [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    result = _reshaped(view.type(), shape, target)
    if isinstance(result, Refusal):
        return Refusal("merges axes in front of the batch into it", "transpose the batch to axis 0")
    return result


@rule("Reshape")
def reshape(view: View) -> Verdict:
    """Keeps the order of elements; time stays with the batch if the batch stays in front."""
    shape, target = view.shape(), view.constant(1)
    if 1 in view.varying:
        return Refusal(
            "its target shape depends on a tensor that varies in time",
            "export the model with a constant target shape",
        )
    if shape is None or target is None:
        return not_understood("reshapes to a shape that is not constant")
    if view.attr("allowzero", 0) and 0 in target:
        return not_understood("reshapes to an empty tensor")
    return _reshaped(view.type(), shape, [int(size) for size in target.ravel()])


def _sizes(shape: Shape, kind: TimeType) -> list[int | None]:
    """The shape with a prime in place of the batch; None for other unknown sizes."""
    sizes: list[int | None] = [size if isinstance(size, int) else None for size in shape]
    if kind.batch_axis is not None:
        sizes[kind.batch_axis] = _PROBE * kind.inner
    return sizes


def _reshaped(kind: TimeType, shape: Shape, target: list[int]) -> Verdict:
    """Where the batch and the channels land.

    Row-major order is all that is used: an axis keeps its meaning when as many elements
    lie before it as did.
    """
    sizes = _sizes(shape, kind)
    result = [sizes[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in result and None not in sizes:
        rest = math.prod(size for size in result if size not in (-1, None))
        total = math.prod(size for size in sizes if size is not None)
        if rest and total % rest == 0:
            result[result.index(-1)] = total // rest
    batch_axis, inner = None, 1
    if kind.batch_axis is not None:
        batch_axis = _same_place(sizes, kind.batch_axis, result)
        if batch_axis is None:
            return Refusal(
                f"its target {target} does not keep the batch in front of what it merges",
                "write -1 or 0 for the batch in the target shape",
            )
        size = result[batch_axis]
        if size == -1:  # the batch and nothing else, up to sizes that cannot be seen
            size = sizes[kind.batch_axis]
        if size is None or size % _PROBE:
            return Refusal(
                f"its target {target} has a literal batch size or splits the batch",
                "write -1 or 0 for the batch in the target shape",
            )
        inner = size // _PROBE
    channel_axis = None
    if kind.channel_axis is not None:
        place = _same_place(sizes, kind.channel_axis, result)
        if place is not None and result[place] == sizes[kind.channel_axis]:
            channel_axis = place
    poolable = kind.poolable and (kind.channel_axis is None or channel_axis is not None)
    return replace(
        kind, batch_axis=batch_axis, channel_axis=channel_axis, poolable=poolable, inner=inner
    )


def _same_place(before: list[int | None], axis: int, after: list[int | None]) -> int | None:
    """The axis of `after` in front of which as many elements lie as before `axis`."""
    if None in before[:axis]:
        same = before[:axis] == after[:axis]
        return axis if same and axis < len(after) else None
    ahead = math.prod(size for size in before[:axis] if size is not None)
    count = 1
    for place, size in enumerate(after):
        if count == ahead and size != 1:
            return place
        if size is None or size == -1:
            return None
        count *= size
    return len(after) - 1 if count == ahead and after and after[-1] == 1 else None


@rule("Concat")
def concat(view: View) -> Verdict:
    """Joins along any axis but the batch."""
    rank = view.rank()
    if rank is None:
        return not_understood("joins tensors of unknown rank")
    axis = int(view.attr("axis")) % rank
    kinds = [view.type(i) for i in range(len(view.types))]
    batch = {(k.batch_axis, k.inner) for k in kinds if k.batch_axis is not None}
    if len(batch) > 1:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    batch_axis, inner = batch.pop() if batch else (None, 1)
    if axis == batch_axis:
        return _MIXES
    if view.varying and any(k.batch_axis is None for k in kinds):
        return Refusal(
            "joins a constant that has a literal batch size",
            "export the model with a symbolic batch",
        )
    channels = {k.channel_axis for k in kinds}
    channel_axis = channels.pop() if len(channels) == 1 else None
    trains = all(not k.varies or (k.kind is Kind.SPIKES and k.poolable) for k in kinds)
    # Channels that do not vary in time may be pooled as well.
    stays = bool(view.varying) and trains and axis == channel_axis
    kind = Kind.SPIKES if stays else kind_of(view)
    return TimeType(kind, batch_axis, channel_axis, poolable=stays, inner=inner)


@rule("Split")
def split(view: View) -> Verdict:
    """Cuts along any axis but the batch."""
    return _along_one_axis(view, int(view.attr("axis", 0)))


@rule("Gather")
def gather(view: View) -> Verdict:
    """Selects constant positions on any axis but the batch."""
    indices = view.constant(1)
    axis, rank = int(view.attr("axis", 0)), view.rank()
    if 1 in view.varying:
        return Refusal("uses a varying tensor as an index", "keep the index analog")
    if indices is None:
        return not_understood("selects positions that are not constant")
    result = _along_one_axis(view, axis)
    if isinstance(result, Refusal) or indices.ndim == 1 or rank is None:
        return result
    axis %= rank
    grown = indices.ndim - 1

    def place(old: int) -> int:
        return old if old < axis else old + grown

    batch_axis = None if result.batch_axis is None else place(result.batch_axis)
    lost = result.channel_axis in (axis, None)
    return replace(
        result,
        batch_axis=batch_axis,
        channel_axis=None if lost else place(result.channel_axis or 0),
        poolable=result.poolable and not lost,
    )


def _along_one_axis(view: View, axis: int) -> Verdict:
    rank = view.rank()
    if rank is None:
        return not_understood("works along an axis of a tensor of unknown rank")
    return _MIXES if axis % rank == view.type().batch_axis else view.type()


@rule("Slice")
def cut(view: View) -> Verdict:
    """Selects a range; on the batch axis only the whole of it."""
    rank = view.rank()
    parts = [_slice_part(view, name, i) for i, name in enumerate(("starts", "ends"), start=1)]
    if rank is None or view.hidden or any(part is None for part in parts):
        return not_understood("cuts at positions that are not constant")
    starts, ends = parts
    axes = view.axes(3, rank) or list(range(len(starts)))
    steps = view.constant(4)
    for index, axis in enumerate(axes):
        step = 1 if steps is None else int(steps.ravel()[index])
        whole = starts[index] == 0 and ends[index] >= 2**31 - 1 and step == 1
        if axis == view.type().batch_axis and not whole:
            return _MIXES
    return view.type()


def _slice_part(view: View, name: str, index: int) -> Any:
    given = view.attr(name)
    if given is None and (array := view.constant(index)) is not None:
        given = array.ravel()
    return None if given is None else [int(value) for value in given]


@rule("Pad")
def pad(view: View) -> Verdict:
    """Zeros are silent neurons; another constant is a current that is always there."""
    rank, kind = view.rank(), view.type()
    pads = view.attr("pads")
    if pads is None and (array := view.constant(1)) is not None:
        pads = array.ravel().tolist()
    if rank is None or view.hidden or pads is None:
        return not_understood("pads by amounts that are not constant")
    axes = view.axes(3, rank) or list(range(rank))
    amounts = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if kind.batch_axis is not None and any(amounts.get(kind.batch_axis, (0, 0))):
        return _MIXES
    value = view.constant(2) if len(view.node.inputs) > 2 else np.asarray(view.attr("value", 0.0))
    if view.attr("mode", "constant") == "constant" and not is_zero(value) and view.varying:
        return replace(kind, kind=Kind.CURRENT, poolable=False)
    return kind


@rule("ReduceMean", "ReduceSum")
def reduce(view: View) -> Verdict:
    """Means and sums over any axes but the batch."""
    rank = view.rank()
    if rank is None:
        return not_understood("reduces a tensor of unknown rank")
    if view.hidden:
        return not_understood("reduces axes that are not constant")
    axes = view.axes(1, rank)
    if not axes:
        if view.attr("noop_with_empty_axes", 0):
            return view.type()
        axes = list(range(rank))
    source = view.type()
    if source.batch_axis in axes:
        return _MIXES
    result = TimeType(kind_of(view), source.batch_axis, source.channel_axis, inner=source.inner)
    if view.attr("keepdims", 1):
        return replace(result, channel_axis=_kept(source.channel_axis, axes))
    return _moved(result, [a for a in range(rank) if a not in axes].index)


def _kept(axis: int | None, gone: list[int]) -> int | None:
    return None if axis in gone else axis


def _moved(kind: TimeType, place: Any) -> TimeType:
    """The type after axes moved; `place(old)` is the new axis, ValueError when it is gone."""

    def new(axis: int | None) -> int | None:
        if axis is None:
            return None
        try:
            return int(place(axis))
        except ValueError:
            return None

    channel_axis = new(kind.channel_axis)
    lost = kind.channel_axis is not None and channel_axis is None
    return replace(
        kind,
        batch_axis=new(kind.batch_axis),
        channel_axis=channel_axis,
        poolable=kind.poolable and not lost,
    )
