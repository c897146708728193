"""Operators that move elements, and shape arithmetic, as torch functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graphpass.calibration.finetune.operators import Call, operator


@operator("Reshape")
def _reshape(call: Call) -> Tensor:
    target = call.numbers("shape", 1) or []
    if not call.attr("allowzero", 0):
        target = [call.x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return call.x.reshape(target)


@operator("Flatten")
def _flatten(call: Call) -> Tensor:
    axis = call.attr("axis", 1)
    ahead = call.x.shape[: axis if axis >= 0 else axis + call.x.ndim]
    return call.x.reshape(int(np.prod(ahead)), -1)


@operator("Transpose")
def _transpose(call: Call) -> Tensor:
    return call.x.permute(call.attr("perm", list(reversed(range(call.x.ndim)))))


@operator("Squeeze")
def _squeeze(call: Call) -> Tensor:
    axes = call.numbers("axes", 1)
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    axes = call.numbers("axes", 1) or []
    result, rank = call.x, call.x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        result = result.unsqueeze(axis)
    return result


@operator("Concat")
def _concat(call: Call) -> Tensor:
    return torch.cat([call.tensor(i) for i in range(len(call.inputs))], call.attr("axis", 1))


@operator("Split")
def _split(call: Call) -> Sequence[Tensor]:
    axis, parts = call.attr("axis", 0), len(call.node.outputs)
    sizes = call.numbers("split", 1)
    if sizes is None:
        # Parts of equal size, the last one smaller.
        return torch.split(call.x, -(-call.x.shape[axis] // parts), axis)
    return torch.split(call.x, sizes, axis)


@operator("Slice")
def _slice(call: Call) -> Tensor:
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    result = call.x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = result.shape[axis]
        picked = range(size)[_as_slice(start, end, step, size)]
        if step > 0:
            index = [slice(None)] * result.ndim
            index[axis] = slice(picked.start, picked.stop, step)
            result = result[tuple(index)]
        else:  # torch slices forwards only
            result = result.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
    return result


def _as_slice(start: int, end: int, step: int, size: int) -> slice:
    """Backwards, an end in front of the first element means: to the first element."""
    return slice(start, None if step < 0 and end < -size else end, step)


@operator("Gather")
def _gather(call: Call) -> Tensor:
    axis, index = call.attr("axis", 0) % call.x.ndim, call.tensor(1).to(torch.int64)
    picked = call.x.index_select(axis, index.reshape(-1) % call.x.shape[axis])
    return picked.reshape(*call.x.shape[:axis], *index.shape, *call.x.shape[axis + 1 :])


@operator("Pad")
def _pad(call: Call) -> Tensor:
    if call.attr("mode", "constant") != "constant":
        raise call.refusal(f"pads in mode '{call.attr('mode')}'")
    pads = call.numbers("pads", 1) or call.numbers("paddings", 1) or []
    given, axes = call.optional(2), call.numbers("axes", 3)
    value = call.attr("value", 0.0) if given is None else float(given)
    if axes is None:
        axes = list(range(len(pads) // 2))
    sides = {axis % call.x.ndim: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    # Torch counts axes from the last one.
    pairs = (sides.get(axis, (0, 0)) for axis in reversed(range(call.x.ndim)))
    return functional.pad(call.x, list(itertools.chain(*pairs)), value=value)


@operator("Tile")
def _tile(call: Call) -> Tensor:
    return call.x.repeat(call.numbers("repeats", 1) or [])


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Tensor:
    number, channels, height, width = call.x.shape
    size = call.attr("blocksize")
    rest = channels // size**2
    if call.attr("mode", "DCR") == "DCR":
        parts = call.x.reshape(number, size, size, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = call.x.reshape(number, rest, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(number, rest, height * size, width * size)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Tensor:
    number, channels, height, width = call.x.shape
    size = call.attr("blocksize")
    parts = call.x.reshape(number, channels, height // size, size, width // size, size)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(number, -1, height // size, width // size)


@operator("Shape")
def _shape(call: Call) -> Tensor:
    sizes = list(call.x.shape)[call.attr("start", 0) : call.attr("end")]
    return torch.tensor(sizes, dtype=torch.int64)


@operator("Expand")
def _expand(call: Call) -> Tensor:
    target = [int(size) for size in call.tensor(1).tolist()]
    return call.x.expand(torch.broadcast_shapes(call.x.shape, target))
