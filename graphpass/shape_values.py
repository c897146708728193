"""The values of shape arithmetic: integers that follow from the shapes of tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.batch import PROBE, symbol_of, to_number

#: Elements: int, multiples of `batch.PROBE` standing for the batch, or the name of a size.
Sizes = NDArray[np.object_]

_LARGEST = 64  # shape tensors are short; anything longer is data


def shape_values(graph: gs.Graph) -> dict[str, Sizes]:
    """What is known of every tensor that is computed from shapes, by name.

    One walk in topological order; constants are left out.
    """
    symbol = symbol_of(graph)
    known: dict[str, Sizes] = {}
    for node in graph.nodes:
        result = _evaluate(node, known, symbol)
        if result is not None and result.size <= _LARGEST:
            known[node.outputs[0].name] = result
    return known


def _evaluate(node: gs.Node, known: dict[str, Sizes], symbol: str | None) -> Sizes | None:
    compute = _OPERATORS.get(node.op) if editing.is_standard(node, node.op) else None
    if compute is None or len(node.outputs) != 1:
        return None
    if node.op in ("Shape", "Size"):
        return _shape(node, symbol)
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


def _shape(node: gs.Node, symbol: str | None) -> Sizes | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    part = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    if None in part:
        return None
    sizes = np.array([to_number(size, symbol) for size in part], dtype=object)
    if node.op == "Shape":
        return sizes
    return None if any(isinstance(s, str) for s in sizes) else np.array(sizes.prod(), object)


def _slice(node: gs.Node, a: list[Any]) -> Sizes:
    starts, ends = node.attrs.get("starts"), node.attrs.get("ends")
    if starts is None:
        starts, ends = a[1], a[2]
    steps = a[4] if len(a) > 4 and a[4] is not None else np.ones(len(starts), object)
    if len(starts) != 1 or a[0].ndim != 1:
        raise ValueError("only vectors are cut")
    result: Sizes = a[0][int(starts[0]) : int(ends[0]) : int(steps[0])]
    return result


def _axes(node: gs.Node, a: list[Any]) -> tuple[int, ...]:
    given = node.attrs.get("axes")
    given = a[1].ravel() if given is None else given
    return tuple(int(axis) for axis in given)


def _squeeze(node: gs.Node, a: list[Any]) -> Sizes:
    given = "axes" in node.attrs or len(a) > 1
    squeezed: Sizes = np.squeeze(a[0], _axes(node, a) if given else None)
    return squeezed


def _constant_of_shape(node: gs.Node, a: list[Any]) -> Sizes:
    value = node.attrs.get("value")
    fill = 0 if value is None else np.asarray(value.values).item()
    if not isinstance(fill, int):
        raise TypeError("only integers are sizes")
    if np.prod(a[0]) > _LARGEST:
        raise ValueError("data, not a shape")
    return np.full([int(size) for size in a[0]], fill, dtype=object)


def _where(_: gs.Node, a: list[Any]) -> Sizes:
    return np.asarray(np.where(a[0].astype(bool), a[1], a[2]), object)


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


def _largest(_: gs.Node, a: list[Any]) -> Sizes:
    return np.asarray(functools.reduce(np.frompyfunc(_larger, 2, 1), a), object)


def _larger(x: Any, y: Any) -> Any:
    """No size is below 1 of which the larger one is asked for, but it may be any other number."""
    for size, other in ((x, y), (y, x)):
        if isinstance(size, str) or size >= PROBE:
            if other == size or (not isinstance(other, str) and other <= 1):
                return size
            raise TypeError("cannot be known")
    return max(x, y)


def _equal(x: Any, y: Any) -> bool:
    """Two names may be of the same size, and the batch may be any number above zero."""
    free = [size for size in (x, y) if isinstance(size, str) or size >= PROBE]
    if x != y and free and not any(not isinstance(s, str) and s <= 0 for s in (x, y)):
        raise TypeError("cannot be known")
    return bool(x == y)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[gs.Node, list[Any]], Sizes]:
    each = np.frompyfunc(function, 2, 1)
    return lambda _, a: np.asarray(each(a[0], a[1]), object)


def _gather(node: gs.Node, a: list[Any]) -> Sizes:
    taken = np.take(a[0], a[1].astype(int), node.attrs.get("axis", 0))
    return np.asarray(taken, object)


_OPERATORS: dict[str, Callable[[gs.Node, list[Any]], Sizes | None] | None] = {
    "Shape": lambda _node, _a: None,  # by `_shape`
    "Size": lambda _node, _a: None,
    "Identity": lambda _, a: a[0],
    "Cast": lambda node, a: a[0] if node.attrs.get("to") in (6, 7) else None,
    "Gather": _gather,
    "Concat": lambda node, a: np.concatenate(a, node.attrs["axis"]),
    "Slice": _slice,
    "Unsqueeze": lambda node, a: np.expand_dims(a[0], _axes(node, a)),
    "Squeeze": _squeeze,
    "Reshape": lambda _, a: a[0].reshape([int(size) for size in a[1]]),
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": lambda node, a: (
        np.full([1] if node.attrs.get("keepdims", 1) else [], a[0].prod(), object)
        if a[0].ndim == 1
        else None
    ),
    "Max": _largest,
    "Where": _where,
    "Equal": _binary(_equal),
    "Add": _binary(_sum),
    "Sub": _binary(lambda x, y: x - y),
    "Mul": _binary(_product),
    "Div": _binary(_quotient),
}
