"""Shape arithmetic becomes constants, with the batch written as 0 or -1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass

Symbolic = NDArray[np.object_]  # elements: int, or the name of a symbolic size

_LARGEST = 64  # shape tensors are short; anything longer is data


class FoldShapes(Pass):
    """Follow sizes from Shape through integer arithmetic, symbols included.

    What comes out as numbers becomes an initializer. A Reshape target that holds one
    symbol, the batch, becomes a constant with -1 (or 0) in its place: computed from
    the Shape of another tensor it would fold the T time-steps into the features
    without any error.
    """

    def apply(self, model: Model) -> int:
        """One walk in topological order."""
        known: dict[str, Symbolic] = {}
        count = 0
        for node in list(model.graph.nodes):
            if editing.is_standard(node, "Reshape") and len(node.inputs) == 2:
                count += _try_write_target(model, node, known)
            result = _evaluate(node, known)
            if result is None or result.size > _LARGEST:
                continue
            known[node.outputs[0].name] = result
            count += _try_replace(model, node, result)
        return count


def _evaluate(node: gs.Node, known: dict[str, Symbolic]) -> Symbolic | None:
    compute = _OPERATORS.get(node.op) if editing.is_standard(node, node.op) else None
    if compute is None or len(node.outputs) != 1:
        return None
    if node.op == "Shape":
        return compute(node, [])
    arguments = []
    for tensor in node.inputs:
        values = known.get(tensor.name) if not isinstance(tensor, gs.Constant) else None
        constant = editing.values(tensor)
        if values is None and constant is not None and constant.size <= _LARGEST:
            values = constant.astype(object)
        if values is None and not tensor.is_empty():
            return None
        arguments.append(values)
    try:
        return compute(node, arguments)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None  # a symbol met an operation that it has no result for


def _shape(node: gs.Node, _: list[Any]) -> Symbolic | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    part = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    return None if None in part else np.array(part, dtype=object)


def _slice(node: gs.Node, a: list[Any]) -> Symbolic:
    starts, ends = node.attrs.get("starts"), node.attrs.get("ends")
    if starts is None:
        starts, ends = a[1], a[2]
    steps = a[4] if len(a) > 4 and a[4] is not None else np.ones(len(starts), object)
    if len(starts) != 1 or a[0].ndim != 1:
        raise ValueError("only vectors are cut")
    result: Symbolic = a[0][int(starts[0]) : int(ends[0]) : int(steps[0])]
    return result


def _axes(node: gs.Node, a: list[Any]) -> tuple[int, ...]:
    given = node.attrs.get("axes")
    given = a[1].ravel() if given is None else given
    return tuple(int(axis) for axis in given)


def _squeeze(node: gs.Node, a: list[Any]) -> Symbolic:
    given = "axes" in node.attrs or len(a) > 1
    squeezed: Symbolic = np.squeeze(a[0], _axes(node, a) if given else None)
    return squeezed


def _product(x: Any, y: Any) -> Any:
    """Symbols multiply to a new symbol; Python would repeat the name."""
    if isinstance(x, str) or isinstance(y, str):
        return f"{x}*{y}" if 1 not in (x, y) else (y if x == 1 else x)
    return x * y


def _sum(x: Any, y: Any) -> Any:
    """Likewise; Python would join the names."""
    return f"({x}+{y})" if isinstance(x, str) or isinstance(y, str) else x + y


def _quotient(x: Any, y: Any) -> Any:
    if isinstance(x, float) or isinstance(y, float):
        raise TypeError("floats are not sizes")
    size = abs(x) // abs(y)  # ONNX rounds towards zero
    return size if (x < 0) == (y < 0) else -size


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[gs.Node, list[Any]], Symbolic]:
    each = np.frompyfunc(function, 2, 1)
    return lambda _, a: np.asarray(each(a[0], a[1]), object)


_OPERATORS: dict[str, Callable[[gs.Node, list[Any]], Symbolic | None]] = {
    "Shape": _shape,
    "Identity": lambda _, a: a[0],
    "Cast": lambda node, a: a[0] if node.attrs.get("to") in (6, 7) else None,
    "Gather": lambda node, a: np.asarray(
        np.take(a[0], a[1].astype(int), node.attrs.get("axis", 0)), object
    ),
    "Concat": lambda node, a: np.concatenate(a, node.attrs["axis"]),
    "Slice": _slice,
    "Unsqueeze": lambda node, a: np.expand_dims(a[0], _axes(node, a)),
    "Squeeze": _squeeze,
    "Reshape": lambda _, a: a[0].reshape([int(size) for size in a[1]]),
    "Add": _binary(_sum),
    "Sub": _binary(lambda x, y: x - y),
    "Mul": _binary(_product),
    "Div": _binary(_quotient),
}


def _try_replace(model: Model, node: gs.Node, result: Symbolic) -> bool:
    """Put numbers in place of arithmetic; symbols stay computed."""
    output = node.outputs[0]
    if not all(isinstance(v, int) for v in result.ravel()) or editing.is_output(model, output):
        return False
    dtype = output.dtype if output.dtype is not None else np.dtype(np.int64)
    constant = editing.constant(model, f"{output.name}/folded", result.astype(dtype))
    editing.detach(node)
    editing.redirect(model, output, constant)
    return True


def _try_write_target(model: Model, node: gs.Node, known: dict[str, Symbolic]) -> bool:
    """Write a target with one symbol as a constant."""
    target = known.get(node.inputs[1].name)
    if target is None or isinstance(node.inputs[1], gs.Constant) or node.attrs.get("allowzero"):
        return False
    sizes = list(target.ravel())
    symbols = [axis for axis, size in enumerate(sizes) if isinstance(size, str)]
    if len(symbols) != 1:
        return False
    (axis,) = symbols
    shape = node.inputs[0].shape or []
    if axis < len(shape) and shape[axis] == sizes[axis]:
        sizes[axis] = 0
    elif -1 not in sizes:
        sizes[axis] = -1
    else:
        return False
    name = f"{node.outputs[0].name}/target"
    node.inputs[1] = editing.constant(model, name, np.array(sizes, np.int64))
    return True
