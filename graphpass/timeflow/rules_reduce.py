"""Rules of operators that sum along axes."""

from __future__ import annotations

from dataclasses import replace

from graphpass.timeflow.types import TimeType
from graphpass.timeflow.view import MIXES, Verdict, View, kind_of, moved, not_understood, rule


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
        return MIXES
    result = TimeType(kind_of(view), source.batch_axis, source.channel_axis, inner=source.inner)
    if view.attr("keepdims", 1):
        return replace(result, channel_axis=_kept(source.channel_axis, axes))
    return moved(result, [a for a in range(rank) if a not in axes].index)


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
