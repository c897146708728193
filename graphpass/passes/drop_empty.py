"""Stage 0: tensors without elements go away where they add nothing."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class DropEmpty(Pass):
    """A Concat does without operands that have no elements along its axis.

    PyTorch's older exporter writes a roll by nothing as one: all, and then the first none.
    """

    def apply(self, model: Model) -> int:
        """Sizes are those that shape inference found."""
        count = sum(_try_drop(node) for node in model.graph.nodes)
        editing.tidy(model)
        return count


def _try_drop(node: gs.Node) -> bool:
    if not editing.is_standard(node, "Concat"):
        return False
    axis = int(node.attrs.get("axis", 1))
    filled = [tensor for tensor in node.inputs if not _is_empty(tensor, axis)]
    if not filled or len(filled) == len(node.inputs):
        return False
    node.inputs = filled
    return True


def _is_empty(tensor: gs.Tensor, axis: int) -> bool:
    shape = tensor.shape or ()
    return -len(shape) <= axis < len(shape) and shape[axis] == 0
