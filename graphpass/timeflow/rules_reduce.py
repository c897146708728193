"""Rules of operators that sum, or take the maximum, along axes."""

from __future__ import annotations

from dataclasses import replace

from graphpass.timeflow.types import Kind, Refusal, TimeType
from graphpass.timeflow.view import (
    MIXES,
    UNLIKE_MEANS,
    Verdict,
    View,
    kind_of,
    moved,
    not_understood,
    rule,
)


@rule("ReduceMean", "ReduceSum")
def reduce(view: View) -> Verdict:
    """Means and sums over any axes but the batch."""
    return _reduced(view, kind_of(view))


@rule("ReduceMax")
def maximum(view: View) -> Verdict:
    """As MaxPool: exact on sorted trains, over any axes but the batch and the channels."""
    if not view.varying:
        return _reduced(view, view.type().kind)
    source = view.type()
    if not source.poolable:
        return UNLIKE_MEANS
    axes = _axes(view)
    if isinstance(axes, Refusal):
        return axes
    if source.channel_axis in axes:
        return Refusal(
            "takes the maximum over channels, whose spikes differ in amplitude",
            "reduce the other axes only",
        )
    result = _reduced(view, source.kind)
    return result if isinstance(result, Refusal) else replace(result, poolable=True)


def _axes(view: View) -> list[int] | Refusal:
    """The axes that are reduced, counted from 0."""
    rank = view.rank()
    if rank is None:
        return not_understood("reduces a tensor of unknown rank")
    if view.hidden:
        return not_understood("reduces axes that are not constant")
    axes = view.axes(1, rank)
    return axes or ([] if view.attr("noop_with_empty_axes", 0) else list(range(rank)))


def _reduced(view: View, kind: Kind) -> Verdict:
    axes, rank = _axes(view), view.rank()
    if isinstance(axes, Refusal):
        return axes
    source = view.type()
    if not axes:
        return source
    if source.batch_axis in axes:
        return MIXES
    result = TimeType(kind, source.batch_axis, source.channel_axis, inner=source.inner)
    if view.attr("keepdims", 1):
        return replace(result, channel_axis=_kept(source.channel_axis, axes))
    return moved(result, [a for a in range(rank or 0) if a not in axes].index)


def _kept(axis: int | None, gone: list[int]) -> int | None:
    return None if axis in gone else axis


@rule("CumSum")
def sum_up(view: View) -> Verdict:
    """Running sums along any axis but the batch."""
    axis, rank = view.constant(1), view.rank()
    if axis is None or rank is None:
        return not_understood("sums along an axis that is not constant")
    if int(axis.item()) % rank == view.type().batch_axis:
        return MIXES
    return replace(view.type(), kind=kind_of(view), poolable=False)
