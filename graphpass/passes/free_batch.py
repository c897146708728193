"""A literal batch size becomes the symbol N."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model, infer_shapes
from graphpass.passes.base import Pass

SYMBOL = "N"


class FreeBatch(Pass):
    """Make axis 0 of every input, and every Reshape that spells the batch, symbolic.

    Exporters write batch 1 into input shapes and Reshape targets. A target whose first
    entry is that literal, and whose tensor has it in front already, gets -1 there. Whether
    nothing else depends on the size is for time flow to say: what cannot be typed with
    a symbolic batch is refused.
    """

    def apply(self, model: Model) -> int:
        """Only where all inputs agree on one literal size."""
        inputs = [t for t in model.graph.inputs if t.shape]
        literal = {t.shape[0] for t in inputs}
        if len(literal) != 1 or not isinstance(size := literal.pop(), int) or size < 1:
            return 0
        count = sum(_try_free(model, node, size) for node in model.graph.nodes)
        for tensor in inputs:
            tensor.shape = [SYMBOL, *tensor.shape[1:]]
        for tensor in model.graph.outputs:
            if tensor.shape and tensor.shape[0] == size:
                tensor.shape = [SYMBOL, *tensor.shape[1:]]
        infer_shapes(model)
        return count + len(inputs)


def _try_free(model: Model, node: gs.Node, size: int) -> bool:
    if not editing.is_standard(node, "Reshape"):
        return False
    target = editing.values(node.inputs[1])
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if target is None or target.size == 0 or target[0] != size or not before or not after:
        return False
    if before[0] != size or not all(isinstance(d, int) for d in after[1:]):
        return False
    free = np.array([-1, *after[1:]], np.int64)
    node.inputs[1] = editing.constant(model, f"{node.outputs[0].name}/target", free)
    return True
