"""A constant that is joined to a tensor becomes padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class PadConstants(Pass):
    """Concat(x, K) becomes Pad(x), plus K in the padding unless K is zero.

    A constant that is joined has the batch size written into it; padding and sums work at
    any, and with T time-steps folded into the batch.
    """

    def apply(self, model: Model) -> int:
        """Every Concat with constants whose batch is 1, or at least broadcasts."""
        return sum(_try_pad(model, node) for node in list(model.graph.nodes))


def _try_pad(model: Model, node: gs.Node) -> bool:
    if not editing.is_standard(node, "Concat"):
        return False
    constants = {i: a for i, t in enumerate(node.inputs) if (a := editing.values(t)) is not None}
    tensors = [i for i in range(len(node.inputs)) if i not in constants]
    if not constants or not tensors:
        return False
    rank = next(iter(constants.values())).ndim
    axis = int(node.attrs["axis"]) % max(rank, 1)
    single = [array.shape[0] == 1 for array in constants.values() if rank > 1]
    floats = [array.dtype == np.float32 for array in constants.values()]
    if rank < 2 or axis == 0 or not all(single) or not all(floats):
        return False
    if any(node.inputs[i].shape is None for i in tensors):
        return False
    padded = [_padded(model, node, i, constants, axis, tensors) for i in tensors]
    if any(tensor is None for tensor in padded):
        return False
    if len(padded) == 1:
        output = node.outputs[0]
        editing.detach(node)
        editing.redirect(model, output, padded[0])
    else:
        node.inputs = padded
    return True


def _padded(
    model: Model,
    node: gs.Node,
    index: int,
    constants: dict[int, NDArray[np.float32]],
    axis: int,
    tensors: list[int],
) -> gs.Tensor | None:
    """A tensor with the constants behind it, and, for the first one, those before it."""
    source = node.inputs[index]
    following = next((i for i in tensors if i > index), len(node.inputs))
    behind = [constants[i] for i in range(index + 1, following)]
    before = [constants[i] for i in range(index)] if index == tensors[0] else []
    if not before and not behind:
        return source
    width = source.shape[axis]
    front, back = (sum(a.shape[axis] for a in arrays) for arrays in (before, behind))
    name = f"{node.outputs[0].name}/{index}"
    result = _pad(model, source, name, axis, (front, back))
    if not any(np.any(array) for array in [*before, *behind]):
        return result
    if not isinstance(width, int):
        return None
    like = (before or behind)[0].shape
    middle = np.zeros([*like[:axis], width, *like[axis + 1 :]], np.float32)
    summand = np.concatenate([*before, middle, *behind], axis)
    total = gs.Variable(editing.fresh_name(model, f"{name}/filled"), np.dtype(np.float32))
    model.graph.nodes.append(
        gs.Node(
            "Add",
            total.name,
            inputs=[result, editing.constant(model, f"{name}/constants", summand)],
            outputs=[total],
        )
    )
    return total


def _pad(
    model: Model, source: gs.Tensor, name: str, axis: int, amounts: tuple[int, int]
) -> gs.Variable:
    rank = len(source.shape)
    pads = np.zeros((2, rank), np.int64)
    pads[:, axis] = amounts
    padded = gs.Variable(editing.fresh_name(model, f"{name}/padded"), np.dtype(np.float32))
    attrs: dict[str, Any] = {"mode": "constant"}
    inputs: list[gs.Tensor] = [source]
    if model.opset < 11:
        attrs |= {"pads": pads.ravel().tolist(), "value": 0.0}
    else:
        inputs.append(editing.constant(model, f"{name}/pads", pads.ravel()))
    model.graph.nodes.append(gs.Node("Pad", padded.name, attrs, inputs=inputs, outputs=[padded]))
    return padded
