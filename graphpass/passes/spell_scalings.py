"""Stage 4, form `int8`: factors and summands per channel become depthwise convolutions.

Integer addition in ONNX Runtime takes one scale per tensor. What has to be scaled per
channel before it goes through a 1x1 convolution, which takes a scale for each channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.regions import nodes_of_functions
from graphpass.weights import Vector

_RANK = 4  # images: integer convolutions of other ranks are not fused


class SpellScalings(Pass):
    """x * gain, and x * gain + offset, become Conv(x) with one weight for each channel.

    Scalar functions stay as they are: they are computed in float32. So do weights, integers
    times their scale: layers look for those.
    """

    def apply(self, model: Model) -> int:
        """Products, each with the constant sum that alone reads it; then sums on their own."""
        count, functions = 0, nodes_of_functions(model)
        for op in ("Mul", "Add"):
            for node in model.graph.nodes:
                fits = editing.is_standard(node, op) and id(node) not in functions
                if fits and _try_spell(model, node):
                    count += 1
        return count


def _try_spell(model: Model, node: gs.Node) -> bool:
    found = _channel_constant(node)
    if found is None or editing.values(node.outputs[0]) is not None:
        return False
    source, array = found
    last, weight, bias = node, array, np.zeros_like(array)
    if node.op == "Add":
        weight, bias = np.ones_like(array), array
    else:
        reader = editing.single_consumer(model, node.outputs[0])
        summand = None if reader is None else _channel_constant(reader)
        if reader is not None and editing.is_standard(reader, "Add") and summand is not None:
            last, bias = reader, summand[1]
    output = last.outputs[0]
    for done in {id(node): node, id(last): last}.values():
        editing.detach(done)
    model.graph.nodes.append(_depthwise(model, source, weight, bias, output))
    return True


def _channel_constant(node: gs.Node) -> tuple[gs.Tensor, Vector] | None:
    """The tensor and the numbers that `node` joins per channel, float64 ``[C]``."""
    for index in (0, 1) if len(node.inputs) == 2 else ():
        array = editing.values(node.inputs[index])
        source = node.inputs[1 - index]
        shape = source.shape or []
        if array is None or len(shape) != _RANK or not isinstance(shape[1], int):
            continue
        if array.dtype == np.float32 and _is_per_channel(array, shape[1]):
            return source, np.broadcast_to(array.astype(np.float64).ravel(), shape[1])
    return None


def _is_per_channel(array: NDArray[Any], channels: int) -> bool:
    if array.size == 1:
        return array.ndim <= _RANK
    padded = (1,) * (_RANK - array.ndim) + array.shape
    return padded == (1, channels, 1, 1)


def _depthwise(
    model: Model, source: gs.Tensor, weight: Vector, bias: Vector, output: gs.Tensor
) -> gs.Node:
    name, channels = output.name, len(weight)
    kernel = weight.astype(np.float32).reshape(-1, 1, 1, 1)
    return gs.Node(
        "Conv",
        f"{name}/scale",
        {"group": channels, "kernel_shape": [1, 1]},
        inputs=[
            source,
            editing.constant(model, f"{name}/factor", kernel),
            editing.constant(model, f"{name}/summand", bias.astype(np.float32)),
        ],
        outputs=[output],
    )
