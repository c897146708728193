"""What an activation is: the nodes that can become neurons, and their parameters."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.admission import LARGEST


def bounds(node: gs.Node) -> tuple[float, float] | None:
    """The interval that a Relu, Clip, Max or Min keeps its input in.

    None for other nodes, for integers (shape arithmetic, never an activation), and where a
    bound is not one constant number. Bounds may be attributes (opset < 11), scalars, of
    shape [1], or left out.
    """
    if not node.inputs or _holds_integers(node.inputs[0]):
        return None
    if editing.is_standard(node, "Relu"):
        return 0.0, math.inf
    if editing.is_standard(node, "Clip"):
        low = _bound(node, "min", 1, -math.inf)
        high = _bound(node, "max", 2, math.inf)
        return None if low is None or high is None else (low, high)
    if editing.is_standard(node, "Max", "Min") and len(node.inputs) == 2:
        return _one_sided(node)
    return None


def _holds_integers(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and bool(np.issubdtype(tensor.dtype, np.integer))


def _one_sided(node: gs.Node) -> tuple[float, float] | None:
    """The interval of a Max or Min with one number, unless it adds axes to the other input."""
    numbers = [t for t in node.inputs if editing.scalar(t) is not None]
    if len(numbers) != 1:
        return None
    (number,) = numbers
    (other,) = (t for t in node.inputs if t is not number)
    if other.shape is not None and len(number.shape) > len(other.shape):
        return None
    limit = float(number.values.item())
    return (limit, math.inf) if node.op == "Max" else (-math.inf, limit)


def _bound(node: gs.Node, name: str, index: int, default: float) -> float | None:
    if name in node.attrs:
        value: float | None = float(node.attrs[name])
    elif (tensor := editing.present(node.inputs, index)) is not None:
        value = editing.scalar(tensor)
    else:
        return default
    if value is not None and abs(value) > LARGEST:  # what exporters write for "no bound"
        return math.copysign(math.inf, value)
    return value


def upper_bound(node: gs.Node) -> float | None:
    """The bound c of a normalised Clip(0, c); None for Relu."""
    interval = bounds(node)
    return interval[1] if interval and node.op == "Clip" else None


def is_convertible(node: gs.Node) -> bool:
    """Is it a normalised Relu, Clip(0, c), QCFS, or what a later stage made of one?"""
    if editing.is_dialect(node, *dialect.NEURONS):
        return True
    if not editing.is_standard(node, "Relu", "Clip") or (interval := bounds(node)) is None:
        return False
    return interval[0] == 0.0 and interval[1] > 0.0  # up to zero it is a constant


def channel_count(tensor: gs.Tensor, channel_axis: int | None) -> int:
    """Number of channels of a tensor; 1 where the axis or its size is not known."""
    if channel_axis is None or not tensor.shape or channel_axis >= len(tensor.shape):
        return 1
    size = tensor.shape[channel_axis]
    return size if isinstance(size, int) else 1
