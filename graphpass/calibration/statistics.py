"""Per-channel statistics, computed inside ordinary ONNX graphs.

A calibration graph is the stage's graph with more outputs (statistics) and more
inputs (parameters). It streams: what comes back from a batch is a few numbers per
channel, so memory does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
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


def moment_names(name: str) -> tuple[str, str]:
    """The outputs that `moments` writes for a neuron."""
    return f"{name}/batch_mean", f"{name}/batch_mean_square"


def moments_in(found: Mapping[str, NDArray[Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """What `moments` gave for a neuron, among the outputs of a run."""
    mean, square = moment_names(name)
    return found[mean], found[square]


def moments(
    proto: onnx.ModelProto,
    tensor: str,
    name: str,
    *,
    rank: int,
    channel_axis: int | None,
    opset: int,
) -> list[onnx.NodeProto]:
    """Nodes for the mean, and the mean of squares, of a tensor per channel: new outputs."""
    mean, square = moment_names(name)
    squared = f"{name}/squared"
    for output in (mean, square):
        add_output(proto, output)

    def reduced(source: str, output: str) -> list[onnx.NodeProto]:
        return reduce_to_channels(
            "ReduceMean", source, output, rank=rank, channel_axis=channel_axis, opset=opset
        )

    return [
        *reduced(tensor, mean),
        helper.make_node("Mul", [tensor, tensor], [squared]),
        *reduced(squared, square),
    ]


def pool_behind(proto: onnx.ModelProto, output: str) -> onnx.NodeProto | None:
    """The MaxPool that is all that reads a neuron's output, if there is one."""
    readers = [node for node in proto.graph.node if output in node.input]
    is_output = any(value.name == output for value in proto.graph.output)
    if len(readers) != 1 or is_output or readers[0].op_type != "MaxPool":
        return None
    return readers[0]


def shaped(
    vector: str, output: str, *, rank: int, channel_axis: int | None
) -> list[onnx.NodeProto]:
    """Nodes that turn ``[C]`` into ``[C, 1, ..., 1]``, as it stands beside such a tensor."""
    trailing = 0 if channel_axis is None else rank - 1 - channel_axis
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


def replace_nodes(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give the graph these nodes instead of its own."""
    ordered = list(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)


def weave(proto: onnx.ModelProto, extra: Iterable[onnx.NodeProto]) -> None:
    """Add nodes to the graph, each as soon as what it reads is there.

    ONNX Runtime keeps a tensor until its last reader ran: with the statistics at the
    end, it would keep every current of the network at once.

    Args:
        proto: the model.
        extra: nodes in topological order.
    """
    made = {name for node in extra for name in node.output}
    written = {name for node in proto.graph.node for name in node.output}
    waiting: dict[str, list[onnx.NodeProto]] = {}
    last: dict[str, str] = {}  # new tensor -> the tensor of the graph that it waits for
    order = {name: i for i, node in enumerate(proto.graph.node) for name in node.output}
    for node in extra:
        needs = [last.get(name, name) for name in node.input if name in made or name in written]
        after = max(needs, key=lambda name: order.get(name, -1), default="")
        waiting.setdefault(after if after in written else "", []).append(node)
        last.update(dict.fromkeys(node.output, after))
    ordered = list(waiting.get("", []))
    for node in proto.graph.node:
        ordered.append(node)
        for name in node.output:
            ordered += waiting.get(name, [])
    replace_nodes(proto, ordered)


def constant(name: str, array: NDArray[np.float32] | NDArray[np.int64]) -> onnx.NodeProto:
    """A Constant node."""
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))


def _vector(name: str, numbers: list[int]) -> onnx.NodeProto:
    tensor = onnx.numpy_helper.from_array(np.array(numbers, np.int64))
    return helper.make_node("Constant", [], [name], value=tensor)
