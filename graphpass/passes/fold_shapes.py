"""Shape arithmetic becomes constants, with the batch written as 0 or -1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.batch import symbol_of, to_number, to_size
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.shape_values import Sizes, shape_values


class FoldShapes(Pass):
    """Follow sizes from Shape through integer arithmetic, symbols included.

    What comes out as numbers becomes an initializer. A target that holds the batch
    becomes a constant: -1 (or 0) stands for it in a Reshape, 1 in an Expand, and a Resize
    gets scales. Computed from the Shape of another tensor it would fold the T time-steps
    into the features without any error.
    """

    def apply(self, model: Model) -> int:
        """One walk in topological order."""
        known = shape_values(model.graph)
        symbol = symbol_of(model.graph)
        count = 0
        for node in list(model.graph.nodes):
            for op, index, write in _TARGETS:
                if editing.is_standard(node, op) and len(node.inputs) > index:
                    target = _target(node, index, known, symbol)
                    constant = None if target is None else write(node, target, symbol)
                    if constant is not None:
                        _set(model, node, index, constant)
                        count += 1
            if node.outputs and (value := known.get(node.outputs[0].name)) is not None:
                count += _try_replace(model, node, value, symbol)
        return count


def _target(
    node: gs.Node, index: int, known: dict[str, Sizes], symbol: str | None
) -> list[Any] | None:
    """The sizes that a node computes for its output; None where they may stay as they are."""
    tensor = node.inputs[index]
    if isinstance(tensor, gs.Constant):
        constant = [int(size) for size in np.asarray(tensor.values).ravel()]
        return constant if node.op == "Resize" and constant else None
    if tensor.name not in known:
        return None
    sizes = [_size(size, symbol) for size in known[tensor.name].ravel()]
    return None if None in sizes else sizes


def _size(value: Any, symbol: str | None) -> Any:
    return value if isinstance(value, str) else to_size(value, symbol)


def _reshape(node: gs.Node, target: list[Any], symbol: str | None) -> NDArray[Any] | None:
    """0 where the size is that of the same axis, and -1 for at most one other symbol."""
    empty = bool(node.attrs.get("allowzero"))  # is what a 0 means
    if empty and 0 in target:
        return None
    shape = node.inputs[0].shape or []
    for given in (target, _without_rest(shape, target, symbol)):
        sizes = list(given)
        for axis, size in enumerate(sizes):
            if isinstance(size, str):
                same = axis < len(shape) and shape[axis] == size
                sizes[axis] = 0 if same and not empty else -1
        if sizes.count(-1) <= 1:
            return np.array(sizes, np.int64)
    return None


def _without_rest(shape: list[Any], target: list[Any], symbol: str | None) -> list[Any]:
    """The target with a number for its -1, where that is known and no symbol."""
    numbers = [to_number(size, symbol) for size in target]
    total = [to_number(size, symbol) for size in shape]
    if -1 not in target or not all(isinstance(n, int) and n for n in (*numbers, *total)):
        return list(target)
    rest, remainder = divmod(math.prod(total), -math.prod(numbers))
    whole = remainder == 0 and isinstance(to_size(rest, symbol), int)
    return [rest if size == -1 and whole else size for size in target]


def _expand(node: gs.Node, target: list[Any], _: str | None) -> NDArray[Any] | None:
    """1 keeps the size that is there already."""
    shape = node.inputs[0].shape or []
    ahead = len(target) - len(shape)
    sizes = [
        1 if axis >= ahead and shape[axis - ahead] == size else size
        for axis, size in enumerate(target)
    ]
    return None if any(isinstance(s, str) for s in sizes) else np.array(sizes, np.int64)


def _resize(node: gs.Node, target: list[Any], symbol: str | None) -> NDArray[Any] | None:
    """The scales that lead from the shape to the sizes."""
    shape = node.inputs[0].shape or []
    stretched = node.attrs.get("keep_aspect_ratio_policy", "stretch") in ("stretch", b"stretch")
    if len(shape) != len(target) or "axes" in node.attrs or not stretched:
        return None
    scales = []
    for before, after in zip(shape, target, strict=True):
        exact = node.attrs.get("mode", "nearest") in ("nearest", b"nearest")
        ratio = _ratio(to_number(before, symbol), to_number(after, symbol), exact=exact)
        if ratio is None:
            return None
        scales.append(ratio)
    return np.array(scales, np.float32)


def _ratio(before: Any, after: Any, *, exact: bool) -> np.float32 | None:
    """A scale in float32 that rounds down to the size, in float32 and in exact arithmetic.

    ONNX Runtime divides the sizes in float32. Where that is too small the next number will
    do, unless `exact`: a pixel that is nearest by a hair would become another one.
    """
    if isinstance(before, int) and isinstance(after, int) and before > 0:
        ratio = np.float32(after) / np.float32(before)
        if before * float(ratio) < after:
            if exact:
                return None
            ratio = np.nextafter(ratio, np.float32(np.inf))
        fits = int(before * float(ratio)) == int(np.float32(before) * ratio) == after
        return np.float32(ratio) if fits or before == after else None
    if isinstance(before, str) and isinstance(after, str):
        factor = after.removeprefix(f"{before}*")
        if after == before:
            return np.float32(1)
        return np.float32(factor) if factor != after and factor.isdigit() else None
    return None


#: Operator, the input that is a target, and what writes it as a constant.
_TARGETS = (
    ("Reshape", 1, _reshape),
    ("Expand", 1, _expand),
    ("Resize", 3, _resize),
)


def _set(model: Model, node: gs.Node, index: int, target: NDArray[Any]) -> None:
    if node.op == "Resize":  # scales, before the sizes
        node.inputs = list(node.inputs)[:index]
        index -= 1
    name = f"{node.outputs[0].name}/target"
    node.inputs[index] = editing.constant(model, name, target)


def _try_replace(model: Model, node: gs.Node, result: Sizes, symbol: str | None) -> bool:
    """Put numbers in place of arithmetic; symbols stay computed."""
    output = node.outputs[0]
    sizes = [_size(value, symbol) for value in result.ravel()]
    if not all(isinstance(size, int) for size in sizes) or editing.is_output(model, output):
        return False
    dtype = output.dtype if output.dtype is not None else np.dtype(np.int64)
    array = np.array(sizes, object).reshape(result.shape).astype(dtype)
    constant = editing.constant(model, f"{output.name}/folded", array)
    editing.detach(node)
    editing.redirect(model, output, constant)
    return True
