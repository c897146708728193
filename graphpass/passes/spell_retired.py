"""Experimental operators of early ONNX become what they are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class SpellRetired(Pass):
    """ImageScaler, Affine, Crop: no longer in ONNX, so that no shape is inferred for them.

    ONNX Runtime still runs them, and files of CoreML and Windows ML converters have them.
    """

    def apply(self, model: Model) -> int:
        """Every one of them; they ended with opset 9."""
        count = 0
        if model.opset > 9:
            return 0
        for node in list(model.graph.nodes):
            spell = _SPELLINGS.get(node.op) if editing.is_standard(node, node.op) else None
            count += spell is not None and spell(model, node)
        return count


def _image_scaler(model: Model, node: gs.Node) -> bool:
    bias = np.asarray(node.attrs.get("bias", [0.0]), np.float32).reshape(-1, 1, 1)
    return _scale(model, node, float(node.attrs.get("scale", 1.0)), bias)


def _affine(model: Model, node: gs.Node) -> bool:
    offset = np.array(node.attrs.get("beta", 0.0), np.float32)
    return _scale(model, node, float(node.attrs.get("alpha", 1.0)), offset)


def _scale(model: Model, node: gs.Node, factor: float, offset: np.ndarray) -> bool:
    name = node.outputs[0].name
    scaled = gs.Variable(editing.fresh_name(model, f"{name}/scaled"), np.dtype(np.float32))
    constant = editing.constant(model, f"{name}/factor", np.array(factor, np.float32))
    first = gs.Node("Mul", scaled.name, inputs=[node.inputs[0], constant], outputs=[scaled])
    model.graph.nodes.insert(model.graph.nodes.index(node), first)
    node.op, node.attrs = "Add", type(node.attrs)()
    node.inputs = [scaled, editing.constant(model, f"{name}/offset", offset)]
    return True


def _crop(_: Model, node: gs.Node) -> bool:
    """Border is left, top, right, bottom; `scale` is height and width of what is left."""
    left, top, right, bottom = (int(size) for size in node.attrs.get("border", [0, 0, 0, 0]))
    scale = node.attrs.get("scale")
    if scale is not None:
        ends = [top + int(scale[0]), left + int(scale[1])]
    else:
        largest = np.iinfo(np.int64).max
        ends = [-bottom if bottom else largest, -right if right else largest]
    node.op, node.attrs = "Slice", type(node.attrs)()
    node.attrs.update({"starts": [top, left], "ends": ends, "axes": [2, 3]})
    return True


_SPELLINGS: dict[str, Callable[[Model, gs.Node], bool]] = {
    "ImageScaler": _image_scaler,
    "Affine": _affine,
    "Crop": _crop,
}
