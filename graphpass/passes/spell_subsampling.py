"""Maxima over single elements, which only leave elements out."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass

_OLDEST_OPSET = 10  # of a Slice with steps
_WHOLE = np.iinfo(np.int64).max


class SpellSubsampling(Pass):
    """A MaxPool with a window of one element becomes the Slice that it is.

    Keras's ResNetV2 and feature pyramids shrink sums of currents so: a Slice is linear, while a
    maximum of currents would be refused.
    """

    def apply(self, model: Model) -> int:
        """All of them; a Slice takes steps since opset 10."""
        if model.opset < _OLDEST_OPSET:
            return 0
        return sum(_try_spell(model, node) for node in model.graph.nodes)


def _try_spell(model: Model, node: gs.Node) -> bool:
    if not editing.is_standard(node, "MaxPool") or len(node.outputs) != 1:
        return False
    window = list(node.attrs.get("kernel_shape", ()))
    padded = any(node.attrs.get("pads", ()))
    padded |= node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if set(window) != {1} or padded or node.attrs.get("ceil_mode", 0):
        return False
    name, axes = node.outputs[0].name, len(window)
    parts = {
        "starts": [0] * axes,
        "ends": [_WHOLE] * axes,
        "axes": list(range(2, 2 + axes)),
        "steps": list(node.attrs.get("strides", [1] * axes)),
    }
    node.op, node.attrs = "Slice", type(node.attrs)()
    node.inputs = [
        node.inputs[0],
        *(
            editing.constant(model, f"{name}/{part}", np.array(values, np.int64))
            for part, values in parts.items()
        ),
    ]
    return True
