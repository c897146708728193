"""A Relu or Clip moves to the quantiser behind it, past what moves or compares values."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.activation import bounds
from graphpass.model import Model
from graphpass.passes.base import Pass, until_settled

#: Operators that write nothing but values that they read, a larger one never for a smaller.
MOVING = (
    "DepthToSpace Flatten GlobalMaxPool MaxPool Reshape Slice SpaceToDepth Squeeze Transpose"
    " Unsqueeze"
).split()


class MoveRectifier(Pass):
    """Relu -> MaxPool -> QuantizeLinear becomes MaxPool -> Relu -> QuantizeLinear.

    Exact, because a Relu does not decrease, and works on each value alone. Beside the
    quantiser, the two are one neuron. Only where nothing else reads what lies between.
    """

    def apply(self, model: Model) -> int:
        """Until nothing moves."""
        return until_settled(model, _try_move)


def _try_move(model: Model, node: gs.Node) -> bool:
    interval = bounds(node)
    if interval is None or np.isnan(interval).any() or not _leads_to_quantiser(model, node):
        return False
    mover = editing.single_consumer(model, node.outputs[0])
    read = [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant)]
    if mover is None or not _moves(mover) or len(read) != 1:
        return False
    (source,), output = read, mover.outputs[0]
    moved = gs.Variable(
        editing.fresh_name(model, f"{output.name}/unbounded"), output.dtype, output.shape
    )
    mover.inputs[0] = source
    mover.outputs = [moved]
    editing.replace_input(node, source, moved)
    node.outputs = [output]
    model.graph.nodes.remove(node)
    model.graph.nodes.insert(model.graph.nodes.index(mover) + 1, node)
    return True


def _moves(node: gs.Node) -> bool:
    return editing.is_standard(node, *MOVING) and len(node.outputs) == 1


def _leads_to_quantiser(model: Model, node: gs.Node) -> bool:
    reader = editing.single_consumer(model, node.outputs[0])
    while reader is not None and _moves(reader):
        reader = editing.single_consumer(model, reader.outputs[0])
    return reader is not None and editing.is_standard(reader, "QuantizeLinear")
