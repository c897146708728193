"""Constants that were quantised: weights keep their integers, all else becomes float32.

ONNX Runtime computes Cast, Sub and Mul of constants once, when it loads a file. A
DequantizeLinear it would compute in every run, in the hope of an integer kernel.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing, weights
from graphpass.model import Model
from graphpass.passes.base import Pass

_FLOAT = 1  # onnx.TensorProto.FLOAT


class SpellIntegerWeights(Pass):
    """DequantizeLinear of a constant becomes Mul(Sub(Cast(integers), zero), scale), or a constant.

    Integers of at most 8 bits that are the weights of a layer are kept: a quarter of the
    bytes of float32, and gains that later passes fold into weights go into the scale. A
    QuantizeLinear of a constant, as quantisation-aware training writes it in front of its
    weights, is computed first.
    """

    def apply(self, model: Model) -> int:
        """In topological order: integers before what reads them."""
        count = 0
        for node in list(model.graph.nodes):
            if editing.is_standard(node, "QuantizeLinear"):
                count += _try_quantise(model, node)
            elif editing.is_standard(node, "DequantizeLinear"):
                count += _try_spell(model, node)
        return count


def _try_quantise(model: Model, node: gs.Node) -> bool:
    """Compute the integers of a constant; the node goes away."""
    real, scale, zero = _operands(node)
    if real is None or scale is None or zero is None or editing.is_output(model, node.outputs[0]):
        return False
    kind = re.fullmatch(r"(u?)int(\d+)", str(zero.dtype))
    if kind is None or real.dtype != np.float32:
        return False
    divisor, middle = _along(node, scale, real), _along(node, zero, real)
    if divisor is None or middle is None:
        return False
    bits = int(kind[2])
    low, high = (0, 2**bits - 1) if kind[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    with np.errstate(all="ignore"):
        whole = np.nan_to_num(np.rint(real / divisor)) + middle.astype(np.float32)
    name = f"{node.outputs[0].name}/integers"
    integers = editing.constant(model, name, np.clip(whole, low, high).astype(zero.dtype))
    read_instead(model, node, integers)
    return True


def _try_spell(model: Model, node: gs.Node) -> bool:
    integers, scale, zero = _operands(node)
    output = node.outputs[0]
    if integers is None or scale is None or zero is None or scale.dtype != np.float32:
        return False
    if not re.fullmatch(r"u?int\d+", str(integers.dtype)) or editing.is_output(model, output):
        return False
    whole = integers.astype(np.float32)
    scale, zero = _along(node, scale, integers), _along(node, zero, integers)
    if scale is None or zero is None:
        return False
    middle = zero.astype(np.float32)
    read_instead(model, node, spelt(model, output, whole, middle, scale))
    return True


def spelt(
    model: Model,
    output: gs.Tensor,
    whole: NDArray[np.float32],
    middle: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> gs.Tensor:
    """A tensor of (whole - middle) * scale, as integers where they weigh a layer's inputs.

    Args:
        model: gets initializers and nodes.
        output: what it is going to replace; its readers decide.
        whole: whole numbers.
        middle: zero points, broadcastable.
        scale: scales, broadcastable.
    """
    weighs = output.outputs and all(
        editing.is_standard(reader, *weights.LAYERS) and reader.inputs[1] is output
        for reader in output.outputs
    )
    low, high = whole.min(initial=0), whole.max(initial=0)
    kinds = [
        kind
        for kind in (np.int8, np.uint8)
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
    ]
    if not weighs or not kinds:
        return editing.constant(model, f"{output.name}/constant", (whole - middle) * scale)
    source: gs.Tensor = editing.constant(model, f"{output.name}/integers", whole.astype(kinds[0]))
    steps: list[tuple[str, dict[str, Any], NDArray[Any] | None]] = [("Cast", {"to": _FLOAT}, None)]
    if np.any(middle):
        steps.append(("Sub", {}, middle))
    steps.append(("Mul", {}, scale))
    for op, attributes, operand in steps:
        name = editing.fresh_name(model, f"{output.name}/{op.lower()}")
        result = gs.Variable(name, np.dtype(np.float32), list(whole.shape))
        read = [] if operand is None else [editing.constant(model, f"{name}/by", operand)]
        made = gs.Node(op, name, attributes, inputs=[source, *read], outputs=[result])
        model.graph.nodes.append(made)
        source = result
    return source


def _operands(
    node: gs.Node,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    """Data, scale and zero point (uint8 0 when left out); None for what is not constant."""
    given = editing.present(node.inputs, 2)
    zero = np.zeros((), np.uint8) if given is None else editing.values(given)
    return editing.values(node.inputs[0]), editing.values(node.inputs[1]), zero


def _along(node: gs.Node, array: NDArray[Any], data: NDArray[Any]) -> NDArray[Any] | None:
    """Scales or zero points in a shape that broadcasts against the data; None if none does."""
    if array.size == 1:
        return array.reshape(())
    axis = int(node.attrs.get("axis", 1))
    if not -data.ndim <= axis < data.ndim:
        return None
    axis, size = axis % data.ndim, data.shape[axis]
    block = int(node.attrs.get("block_size", 0))
    if block > 0 and array.ndim == data.ndim:
        index = np.arange(size) // block
        given = [*data.shape[:axis], -(-size // block), *data.shape[axis + 1 :]]
        return array.take(index, axis) if list(array.shape) == given else None
    if block or array.shape != (size,):
        return None
    return array.reshape([-1 if i == axis else 1 for i in range(data.ndim)])


def read_instead(model: Model, node: gs.Node, value: gs.Tensor) -> None:
    """Let all that read a node's output read a value."""
    output = node.outputs[0]
    editing.detach(node)
    editing.redirect(model, output, value)
