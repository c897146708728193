"""Stage 4, form `int8`: a pointwise convolution of a single pixel becomes a Gemm.

Integer convolutions round what they write. A Gemm of integers gives floats, as the outputs
of the network should be.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class FlattenClassifier(Pass):
    """Conv 1x1 on ``[N, C, 1, 1]``, then Flatten, becomes Flatten, then Gemm."""

    def apply(self, model: Model) -> int:
        """Each pair once."""
        return sum(_try_flatten(model, node) for node in model.graph.nodes)


def _try_flatten(model: Model, layer: gs.Node) -> bool:
    if not editing.is_standard(layer, "Conv") or not _is_gemm(layer):
        return False
    flatten = editing.single_consumer(model, layer.outputs[0])
    if flatten is None or not editing.is_standard(flatten, "Flatten"):
        return False
    if flatten.attrs.get("axis", 1) != 1:
        return False
    weight = np.asarray(editing.values(layer.inputs[1]))
    name, source, output = layer.outputs[0].name, layer.inputs[0], flatten.outputs[0]
    flat = gs.Variable(
        editing.fresh_name(model, f"{name}/flat"),
        np.dtype(np.float32),
        [source.shape[0], weight.shape[1]],
    )
    matrix = editing.constant(model, f"{name}/matrix", weight.reshape(weight.shape[:2]))
    bias = list(layer.inputs[2:])
    editing.detach(layer)
    flatten.inputs[0], flatten.outputs[0] = source, flat
    model.graph.nodes.append(
        gs.Node(
            "Gemm",
            f"{name}/gemm",
            {"transB": 1},
            inputs=[flat, matrix, *bias],
            outputs=[output],
        )
    )
    return True


def _is_gemm(layer: gs.Node) -> bool:
    """One pixel in, one pixel out, all channels with all channels."""
    weight, shape = editing.values(layer.inputs[1]), layer.inputs[0].shape or []
    single = len(shape) == 4 and list(shape[2:]) == [1, 1]
    if weight is None or not single or weight.shape[2:] != (1, 1):
        return False
    return layer.attrs.get("group", 1) == 1 and not any(layer.attrs.get("pads", ()))
