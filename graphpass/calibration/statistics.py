"""Per-channel statistics, computed inside ordinary ONNX graphs.

A calibration graph is the stage's graph with more outputs (statistics) and more
inputs (parameters). It streams: what comes back from a batch is a few numbers per
channel, so memory does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

_FLOAT = onnx.TensorProto.FLOAT


def reduce_to_channels(
    op: str, tensor: str, output: str, *, rank: int, channel_axis: int | None, opset: int
) -> list[onnx.NodeProto]:
    """Nodes that reduce a tensor over all axes but its channels, to shape ``[C]``.

    Args:
        op: ReduceMean or ReduceMax.
        tensor: what to reduce.
        output: name of the result; ``[1]`` when there is no channel axis.
        rank: rank of the tensor.
        channel_axis: axis of the channels, None for one value.
        opset: version of the standard operator set; axes became an input in 18.
    """
    axes = [axis for axis in range(rank) if axis != channel_axis]
    folded = f"{output}/folded"
    nodes = []
    if opset >= 18:
        nodes.append(_vector(f"{output}/axes", axes))
        reduced = helper.make_node(op, [tensor, f"{output}/axes"], [folded], keepdims=0)
    else:
        reduced = helper.make_node(op, [tensor], [folded], axes=axes, keepdims=0)
    nodes.append(reduced)
    nodes.append(_vector(f"{output}/shape", [-1]))
    nodes.append(helper.make_node("Reshape", [folded, f"{output}/shape"], [output]))
    return nodes


def shaped(vector: str, output: str, trailing: int) -> list[onnx.NodeProto]:
    """Nodes that turn ``[C]`` into ``[C, 1, ..., 1]`` with `trailing` ones."""
    return [
        _vector(f"{output}/shape", [-1, *[1] * trailing]),
        helper.make_node("Reshape", [vector, f"{output}/shape"], [output]),
    ]


def add_output(proto: onnx.ModelProto, name: str) -> None:
    """Make a per-channel tensor an output of the graph."""
    proto.graph.output.append(helper.make_tensor_value_info(name, _FLOAT, [None]))


def add_input(proto: onnx.ModelProto, name: str, channels: int) -> None:
    """Make a per-channel parameter an input of the graph."""
    proto.graph.input.append(helper.make_tensor_value_info(name, _FLOAT, [channels]))


def insert(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of the graph."""
    ordered = list(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)


def _vector(name: str, numbers: list[int]) -> onnx.NodeProto:
    tensor = onnx.numpy_helper.from_array(np.array(numbers, np.int64))
    return helper.make_node("Constant", [], [name], value=tensor)
