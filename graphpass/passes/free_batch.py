"""A literal batch size becomes the symbol N."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model, infer_shapes
from graphpass.passes.base import Pass
from graphpass.passes.free_rows import free_rows
from graphpass.timeflow import TimeFlow, TimeType, infer, keeps_samples_apart

SYMBOL = "N"
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu", "Where")
_ALL = np.iinfo(np.int64).max


class FreeBatch(Pass):
    """Make axis 0 of every input, and every target that spells the batch, symbolic.

    Exporters write the batch size into input shapes, Reshape and Expand targets, ends of
    slices and constants. Time flow says where the batch is; a target gets -1 there, wherever
    it lands and with whatever it is merged, and of a constant with the same row for every
    sample one row is left. The inputs become symbolic only if every node that the batch
    reaches is known to keep samples apart: what averages over all axes, say, means one sample
    when it is written for one.
    """

    def apply(self, model: Model) -> int:
        """Only where all inputs agree on one literal size."""
        inputs = [t for t in model.graph.inputs if t.shape]
        literal = {t.shape[0] for t in inputs}
        if len(literal) != 1 or not isinstance(size := literal.pop(), int) or size < 1:
            return 0
        count = 0
        while True:
            flow = infer(model, ())
            changed = sum(_try_free(model, node, flow, size) for node in list(model.graph.nodes))
            if not changed:
                break
            count += changed
        if not keeps_samples_apart(model, flow):
            return count
        for tensor in inputs:
            tensor.shape = [SYMBOL, *tensor.shape[1:]]
        for tensor in model.graph.outputs:
            axis = flow.types[tensor.name].batch_axis if tensor.name in flow.types else None
            if tensor.shape and axis is not None:
                tensor.shape = [SYMBOL if i == axis else d for i, d in enumerate(tensor.shape)]
        infer_shapes(model)
        return count + len(inputs)


def _try_free(model: Model, node: gs.Node, flow: TimeFlow, size: int) -> bool:
    if not node.inputs or not node.outputs:
        return False
    if editing.is_standard(node, "Concat", *_ELEMENTWISE):
        return free_rows(model, node, flow, size)
    kind, after = flow.types.get(node.inputs[0].name), flow.types[node.outputs[0].name]
    if kind is None or kind.batch_axis is None:
        return False
    if editing.is_standard(node, "Reshape"):
        return _reshape(model, node, kind, after.batch_axis, size)
    if after.batch_axis is None and editing.is_standard(node, "Expand"):
        return _expand(model, node, kind, size)
    if after.batch_axis is None and editing.is_standard(node, "Slice"):
        return _slice(model, node, kind, size)
    return False


def _reshape(model: Model, node: gs.Node, kind: TimeType, found: int | None, size: int) -> bool:
    """-1 on the first axis in front of which as many elements lie as in front of the batch."""
    target, before = editing.values(node.inputs[1]), node.inputs[0].shape
    after = node.outputs[0].shape
    if target is None or not before or after is None:
        return False
    if node.attrs.get("allowzero") and 0 in target:
        return False
    if not all(isinstance(d, int) for d in [*before[: kind.batch_axis], *after]):
        return False
    ahead = math.prod(before[: kind.batch_axis])
    places = [i for i in range(len(after)) if math.prod(after[:i]) == ahead and not after[i] % size]
    if not places or places[0] == found or not math.prod(after):
        return False
    free = [-1 if axis == places[0] else length for axis, length in enumerate(after)]
    return _write(model, node, 1, np.array(free, np.int64))


def _expand(model: Model, node: gs.Node, kind: TimeType, size: int) -> bool:
    """1 keeps the batch as it is."""
    target, before = editing.values(node.inputs[1]), node.inputs[0].shape
    if target is None or target.ndim != 1 or before is None or kind.batch_axis is None:
        return False
    place = kind.batch_axis + target.size - len(before)
    if place < 0 or target[place] != size * kind.inner:
        return False
    free = target.astype(np.int64)
    free[place] = 1
    return _write(model, node, 1, free)


def _slice(model: Model, node: gs.Node, kind: TimeType, size: int) -> bool:
    """The whole of the batch, up to its literal end."""
    bounds: list[Any] = [editing.values(tensor) for tensor in node.inputs[1:]]
    if len(bounds) < 2 or any(bound is None for bound in bounds):
        return False
    starts, ends = bounds[:2]
    rank = len(node.inputs[0].shape or ())
    axes = bounds[2] if len(bounds) > 2 else np.arange(len(starts))
    free = ends.astype(np.int64)
    for index, axis in enumerate(axes):
        if rank and axis % rank == kind.batch_axis:
            if starts[index] != 0 or ends[index] < size * kind.inner or ends[index] == _ALL:
                return False
            free[index] = _ALL
    return _write(model, node, 2, free)


def _write(model: Model, node: gs.Node, index: int, free: NDArray[np.int64]) -> bool:
    before = np.asarray(editing.values(node.inputs[index]))
    if np.array_equal(before, free):  # it was written, to no avail
        return False
    node.inputs[index] = editing.constant(model, f"{node.outputs[0].name}/target", free)
    return True
