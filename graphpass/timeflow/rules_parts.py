"""Rules of operators that select, join or repeat elements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphpass.timeflow.types import Kind, Refusal, TimeType
from graphpass.timeflow.view import (
    MIXES,
    Verdict,
    View,
    is_zero,
    kind_of,
    moved,
    not_understood,
    rule,
)


@rule("Concat")
def concat(view: View) -> Verdict:
    """Joins along any axis but the batch."""
    rank = view.rank()
    if not rank:
        return not_understood("joins tensors of unknown rank, or numbers")
    axis = int(view.attr("axis")) % rank
    kinds = [view.type(i) for i in range(len(view.types))]
    batch = {(k.batch_axis, k.inner) for k in kinds if k.batch_axis is not None}
    if len(batch) > 1:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    batch_axis, inner = batch.pop() if batch else (None, 1)
    if axis == batch_axis:
        return MIXES
    if batch_axis is not None and any(k.batch_axis is None for k in kinds):
        return Refusal(
            "joins a constant that has a literal batch size",
            "export the model with a symbolic batch",
        )
    channels = {k.channel_axis for k in kinds}
    channel_axis = channels.pop() if len(channels) == 1 else None
    trains = all(not k.varies or k.poolable for k in kinds)
    # Channels that do not vary in time may be pooled as well.
    stays = bool(view.varying) and trains and axis == channel_axis
    kind = kind_of(view, spikes_stay=stays)
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
        return Refusal(
            "uses a varying tensor as an index", "keep the activations before the index (--keep)"
        )
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
    return MIXES if axis % rank == view.type().batch_axis else view.type()


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
            return MIXES
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
        return MIXES
    value = view.constant(2) if len(view.node.inputs) > 2 else np.asarray(view.attr("value", 0.0))
    if view.attr("mode", "constant") != "constant" or not view.varying:
        return kind
    # Zeros are silent neurons, unless silence stands for something else.
    silent = is_zero(value) and kind.kind is Kind.SPIKES
    return kind if silent else replace(kind, kind=Kind.CURRENT, poolable=False)


@rule("Tile")
def tile(view: View) -> Verdict:
    """Repeats whole axes, the batch once."""
    repeats = view.constant(1)
    if repeats is None:
        return not_understood("repeats a number of times that is not constant")
    batch = view.type().batch_axis
    if batch is not None and repeats.ravel()[batch] != 1:
        return MIXES
    return view.type()


@rule("Expand")
def expand(view: View) -> Verdict:
    """Repeats axes of size 1; a target of 1 keeps what is there."""
    target, rank = view.constant(1), view.rank()
    if target is None or rank is None:
        return not_understood("expands to a shape that is not constant")
    source, grown = view.type(), max(target.size - rank, 0)
    batch = source.batch_axis
    if batch is not None and batch + grown >= rank + grown - target.size:
        place = batch + grown - (rank + grown - target.size)
        if place >= 0 and target.ravel()[place] != 1:
            return Refusal(
                f"expands the batch axis to {target.ravel()[place]}",
                "write 1 for the batch in the target shape",
            )
    return moved(source, lambda axis: axis + grown)


@rule("Trilu")
def triangle(view: View) -> Verdict:
    """Silences a triangle of the last two axes."""
    rank = view.rank()
    if rank is None or view.hidden:
        return not_understood("cuts a triangle at a diagonal that is not constant")
    return MIXES if view.type().batch_axis in (rank - 1, rank - 2) else view.type()


@rule("Shape")
def shape(view: View) -> Verdict:
    """The sizes of axes that time does not lie on."""
    source, rank = view.type(), view.rank()
    if not view.varying:
        return TimeType(Kind.STATIC)
    if rank is None or source.batch_axis is None:
        return not_understood("reads the shape of a tensor of unknown rank")
    axes = list(range(rank))[view.attr("start", 0) : view.attr("end", rank)]
    if source.batch_axis not in axes:
        return TimeType(Kind.STATIC)
    readers = view.node.outputs[0].outputs
    if readers and all(source.batch_axis not in _axes_read(node, axes) for node in readers):
        return TimeType(Kind.STATIC)
    return Refusal(
        "reads the batch size of a tensor that varies in time, where T lies folded",
        "read it from the network's input, or export the model with constant shapes",
    )


def _axes_read(node: gs.Node, axes: list[int]) -> list[int]:
    """Which of the axes whose sizes a node reads it looks at; all, if that cannot be seen."""
    given = [t.values if isinstance(t, gs.Constant) else None for t in node.inputs[1:]]
    if any(values is None for values in given) or not given:
        return axes
    if node.op == "Gather":
        return [axes[int(position)] for position in np.asarray(given[0]).ravel()]
    if node.op == "Slice":
        first, last = (int(np.asarray(bound).item()) for bound in given[:2])
        return axes[first : last : int(np.asarray(given[3]).item()) if len(given) > 3 else 1]
    return axes
