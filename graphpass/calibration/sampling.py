"""Where the currents of a neuron are looked at: on a grid, the same for every image.

Statistics of every element would cost more than the network itself: each one is a pass
over memory, and in between a tensor must leave the layout that ONNX Runtime's
convolutions work in. What a layer computes on a grid is the same layer with larger
strides, and a MaxPool of one element is a grid in that layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphpass.calibration import statistics
from graphpass.model import Model
from graphpass.neurons import Neuron

_POSITIONS = 64  # about so many per image and channel


def sample_name(name: str) -> str:
    """The tensor that `sample` writes for a neuron."""
    return f"{name}/sample"


def first_readers(
    proto: onnx.ModelProto, neurons: Mapping[str, Neuron], currents: Mapping[str, str]
) -> dict[str, str]:
    """Neuron -> the first neuron that reads the same current: one sample serves both.

    Args:
        proto: the graph that the currents are in.
        neurons: by name.
        currents: neuron -> its current.
    """
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for name, current in currents.items():
        pooled = statistics.pool_behind(proto, name) is not None
        key = (name if pooled else current, neurons[name].channel_axis)
        found[name] = first.setdefault(key, name)
    return found


def sample(
    model: Model,
    proto: onnx.ModelProto,
    neuron: Neuron,
    current: str,
    layer: onnx.NodeProto | None = None,
) -> list[onnx.NodeProto]:
    """Nodes for the current of a neuron on a grid.

    If a MaxPool is all that reads the neuron's output, then of the pooled current: that is
    what matters, its distribution has fewer small values.

    Args:
        model: stage 2.
        proto: the graph, made from it, that the nodes are for.
        neuron: its output names the sample.
        current: tensor of the current.
        layer: computes the current, and may do so again on the grid: for graphs in which
            nobody else reads the current, so that ONNX Runtime can fuse the activation.
    """
    source, output = layer, sample_name(neuron.name)
    if (pool := statistics.pool_behind(proto, neuron.name)) is not None:
        source = onnx.NodeProto()
        source.CopyFrom(pool)
        source.input[0], source.output[0], source.name = current, f"{output}/pooled", ""
    sizes, strides = _grid(model, pool, neuron)
    again = pool is not None or max(strides, default=1) > 1
    if again and source is not None and _can_stride(source):
        return [_strided(source, strides, output)]
    if source is None or pool is None:
        return _thinned(current, output, sizes, strides, neuron.channel_axis)
    return [source, *_thinned(source.output[0], output, sizes, strides, neuron.channel_axis)]


def fraction(model: Model, proto: onnx.ModelProto, neuron: Neuron) -> float:
    """The share of a neuron's currents that lie on the grid, above 0 and at most 1."""
    sizes, strides = _grid(model, statistics.pool_behind(proto, neuron.name), neuron)
    on_grid = [math.ceil(n / s) / n for n, s in zip(sizes, strides, strict=True) if s > 1]
    return float(math.prod(on_grid))


def _grid(model: Model, pool: onnx.NodeProto | None, neuron: Neuron) -> tuple[list[Any], list[int]]:
    """Sizes of what is looked at, and every how many elements one is taken."""
    sizes = list(model.graph.tensors()[neuron.name if pool is None else pool.output[0]].shape or [])
    return sizes, _strides(sizes, neuron.channel_axis)


def _strides(shape: Sequence[Any], channel_axis: int | None) -> list[int]:
    """Every how many elements one is taken, by axis: along those behind the channels."""
    first = 1 if channel_axis is None else channel_axis + 1
    axes = [i for i in range(first, len(shape)) if isinstance(shape[i], int) and shape[i] > 1]
    positions = math.prod(shape[axis] for axis in axes)
    stride = 1
    if positions > _POSITIONS:
        stride = math.ceil((positions / _POSITIONS) ** (1 / len(axes)))
    return [stride if axis in axes else 1 for axis in range(len(shape))]


def _can_stride(node: onnx.NodeProto) -> bool:
    """Are larger strides a grid of the same positions?"""
    plain = not {"auto_pad", "ceil_mode"} & {attribute.name for attribute in node.attribute}
    return plain and not node.domain and node.op_type in ("Conv", "MaxPool")


def _strided(node: onnx.NodeProto, strides: Sequence[int], output: str) -> onnx.NodeProto:
    """The layer with strides that many times as large."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    own = attributes.get("strides", [1] * (len(strides) - 2))
    attributes["strides"] = [a * b for a, b in zip(own, strides[2:], strict=True)]
    return helper.make_node(node.op_type, node.input, [output], **attributes)


def _thinned(
    tensor: str,
    output: str,
    sizes: Sequence[Any],
    strides: Sequence[int],
    channel_axis: int | None,
) -> list[onnx.NodeProto]:
    """A grid of a tensor that is there."""
    if max(strides, default=1) == 1:
        return [helper.make_node("Identity", [tensor], [output])]
    if channel_axis == 1 and len(strides) in (4, 5):
        ones = [1] * (len(strides) - 2)
        return [
            helper.make_node("MaxPool", [tensor], [output], kernel_shape=ones, strides=strides[2:])
        ]
    return _gathered(tensor, output, sizes, strides)


def _gathered(
    tensor: str, output: str, sizes: Sequence[Any], strides: Sequence[int]
) -> list[onnx.NodeProto]:
    """The same in any layout."""
    nodes, axes = [], [axis for axis, stride in enumerate(strides) if stride > 1]
    for axis in axes:
        following = output if axis == axes[-1] else f"{output}/{axis}"
        positions = np.arange(0, sizes[axis], strides[axis])
        nodes += [
            statistics.constant(f"{output}/{axis}/positions", positions),
            helper.make_node(
                "Gather", [tensor, f"{output}/{axis}/positions"], [following], axis=axis
            ),
        ]
        tensor = following
    return nodes
