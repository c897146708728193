"""Rules of operators that interpolate between pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from graphpass.timeflow.types import Kind, Refusal, TimeType
from graphpass.timeflow.view import MIXES, Verdict, View, kind_of, not_understood, rule


@rule("Resize")
def resize(view: View) -> Verdict:
    """Every pixel out is a weighted sum of pixels in, or, in mode nearest, one of them."""
    if set(view.varying) - {0}:
        return Refusal("its scales or sizes vary in time", "export it with constant scales")
    rank, first = view.rank(), 1 if view.opset < 11 else 2
    if rank is None:
        return not_understood("resizes a tensor of unknown rank")
    axes = view.attr("axes")
    axes = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    scales = view.constant(first)
    if scales is None or not scales.size:
        # Sizes say nothing about the batch, unless it is not among the axes.
        if view.constant(3) is None or view.type().batch_axis in axes:
            return not_understood("resizes to sizes that are not constant, or hold the batch")
        scales = np.full(len(axes), 2.0)
    return _resized(view, axes, scales)


@rule("Upsample")
def upsample(view: View) -> Verdict:
    """The same under its name up to opset 9."""
    scales, rank = view.attr("scales"), view.rank()
    if scales is None:
        scales = view.constant(1)
    if scales is None or rank is None:
        return not_understood("resizes by scales that are not constant")
    return _resized(view, list(range(rank)), np.asarray(scales))


def _resized(view: View, axes: list[int], scales: Any) -> Verdict:
    source = view.type()
    if np.shape(scales) != (len(axes),):
        return not_understood("does not have one scale for each axis")
    resized = [axis for axis, scale in zip(axes, scales, strict=True) if scale != 1]
    if source.batch_axis in resized:
        return MIXES
    mode = view.attr("mode", "nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    cropped = view.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    if mode == "nearest" and not cropped and source.channel_axis not in resized:
        return source
    return replace(source, kind=kind_of(view), poolable=False)


@rule("GridSample")
def sample_grid(view: View) -> Verdict:
    """Weighted sums of pixels, at places that do not vary in time."""
    if 1 in view.varying:
        return Refusal(
            "samples at places that vary in time", "keep the activations before the grid (--keep)"
        )
    source = view.type()
    if source.batch_axis not in (0, None):
        return Refusal("reads the batch from another axis than 0", "transpose before it")
    if view.varying and view.type(1).batch_axis != 0:
        return Refusal("its grid has a literal batch size", "export it with a symbolic batch")
    kind = Kind.CURRENT if view.varying else Kind.STATIC
    return TimeType(kind, source.batch_axis, 1, inner=source.inner)
