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
    source, output = sigmoid.inputs[0], node.outputs[0]
    editing.detach(node)
    for op in ("Neg", "Softplus"):
        name = editing.fresh_name(model, f"{output.name}/{op}")
        result = gs.Variable(name, source.dtype, source.shape)
        model.graph.nodes.append(gs.Node(op, name, {}, [source], [result]))
        source = result
    model.graph.nodes.append(gs.Node("Neg", output.name, {}, [source], [output]))
    return True
