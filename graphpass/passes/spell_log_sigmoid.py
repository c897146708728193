"""The logarithm of a sigmoid, written so that float32 holds it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class SpellLogSigmoid(Pass):
    """Log(Sigmoid(x)) becomes -Softplus(-x), which it is.

    Exporters write LogSigmoid as the former, which rounding makes -inf from -18 on, so that
    it is no function with a value for every current.
    """

    def apply(self, model: Model) -> int:
        """Every logarithm of a sigmoid; a sigmoid that others read as well stays beside it."""
        return sum(_try_spell(model, node) for node in list(model.graph.nodes))


def _try_spell(model: Model, node: gs.Node) -> bool:
    if not editing.is_standard(node, "Log") or not node.inputs[0].inputs:
        return False
    (sigmoid,) = node.inputs[0].inputs
    if not editing.is_standard(sigmoid, "Sigmoid"):
        return False
    node.inputs = [sigmoid.inputs[0]]
    editing.replace_by_chain(model, node, [("Neg", []), ("Softplus", []), ("Neg", [])])
    return True
