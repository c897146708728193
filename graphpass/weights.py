"""Scaling the weights of linear layers. New initializers are written: old ones may be shared.

Weights that are integers times a scale stay so: the scale changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model

Vector = NDArray[np.float64]

_BLOCK = 1 << 22  # elements that are computed together

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def output_axis(layer: gs.Node, rank: int) -> int:
    """The axis of a layer's output that its output channels lie on."""
    return rank - 1 if layer.op == "MatMul" else 1


@np.errstate(over="ignore", invalid="ignore")  # what is not finite stays so
def scale_outputs(model: Model, layer: gs.Node, gain: Vector, offset: Vector) -> bool:
    """Let a layer compute gain * y + offset instead of y.

    Args:
        model: the model; initializers are added to it.
        layer: Conv, ConvTranspose, Gemm, or MatMul by a constant.
        gain: factor per output channel, ``[C]`` or ``[1]``.
        offset: summand per output channel, ``[C]`` or ``[1]``.

    Returns:
        False, and nothing changed, when the layer cannot take it: another operator,
        weights that are not constant, another number of channels, an offset for a MatMul.
    """
    weight, bias = _constants(layer)
    if weight is None or bias is None or (layer.op == "MatMul" and np.any(offset)):
        return False
    channels = _output_channels(layer, weight)
    if gain.size not in (1, channels):
        return False
    gain, offset = np.broadcast_to(gain, channels), np.broadcast_to(offset, channels)
    name = layer.outputs[0].name
    _scale(model, layer, weight, _along_outputs(layer, weight, gain), f"{name}/weight")
    if layer.op != "MatMul":
        bias = bias * layer.attrs.get("beta", 1.0) if layer.op == "Gemm" else bias
        summand = (bias * gain + offset).astype(weight.dtype)
        if layer.op == "Gemm":
            layer.attrs["beta"] = 1.0
        layer.inputs = [
            *layer.inputs[:2],
            editing.constant(model, f"{name}/bias", summand),
        ]
    return True


def scale_inputs(model: Model, layer: gs.Node, factor: Vector) -> bool:
    """Let a layer read x where it read factor * x.

    Args:
        model: the model; an initializer is added to it.
        layer: Conv, ConvTranspose, Gemm, or MatMul by a constant.
        factor: per input channel, ``[C]`` or ``[1]``.

    Returns:
        False, and nothing changed, when the layer cannot take it.
    """
    weight, _ = _constants(layer)
    if weight is None:
        return False
    along = along_inputs(layer, weight, factor)
    if along is None:
        return False
    name = layer.outputs[0].name
    _scale(model, layer, weight, along, f"{name}/weight_of_counts")
    return True


def _scale(
    model: Model, layer: gs.Node, weight: NDArray[Any], factor: NDArray[Any], name: str
) -> None:
    """Let the weight be factor * weight."""
    old = layer.inputs[1]
    if isinstance(old, gs.Constant):
        layer.inputs[1] = editing.constant(model, name, _product(weight, factor))
        return
    for axis in range(factor.ndim):  # a factor that is the same everywhere stays one number
        first = factor.take([0], axis)
        factor = first if np.all(factor == first) else factor
    source, operand = old, np.ones((), np.float32)
    (node,) = old.inputs
    if editing.is_standard(node, "Mul"):
        scale = np.asarray(node.inputs[1].values)
        if np.broadcast(scale, factor).size == max(scale.size, factor.size):
            source, operand = node.inputs[0], scale
    name = editing.fresh_name(model, name)
    by = editing.constant(model, f"{name}/scale", (operand * factor).astype(np.float32))
    layer.inputs[1] = gs.Variable(name, weight.dtype, list(weight.shape))
    product = gs.Node("Mul", name, inputs=[source, by], outputs=[layer.inputs[1]])
    model.graph.nodes.append(product)


def _product(weight: NDArray[Any], factor: NDArray[Any]) -> NDArray[Any]:
    """Weight * factor, rounded to the type of the weight; never all of it in float64."""
    factor = np.broadcast_to(factor, weight.shape)
    result = np.empty_like(weight)
    rows = max(1, _BLOCK * len(weight) // max(1, weight.size))
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        result[part] = weight[part] * factor[part]
    return result


def largest_per_output(layer: gs.Node) -> Vector | None:
    """The largest absolute weight or bias of every output channel; None as `scale_outputs`."""
    weight, bias = _constants(layer)
    if weight is None or bias is None:
        return None
    size = np.abs(weight)
    if layer.op == "Conv":
        by_channel = size.reshape(weight.shape[0], -1).max(axis=1)
    elif layer.op == "ConvTranspose":
        groups = int(layer.attrs.get("group", 1))
        parts = size.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        by_channel = parts.max(axis=(1, 3)).ravel()
    else:
        transposed = layer.op == "Gemm" and layer.attrs.get("transB", 0)
        by_channel = size.max(axis=1 if transposed else 0)
    largest: Vector = np.maximum(by_channel, np.abs(bias)).astype(np.float64)
    return largest


def along_inputs(layer: gs.Node, weight: NDArray[Any], factor: Vector) -> Vector | None:
    """`factor` in a shape that multiplies the input channels; None when sizes differ.

    Args:
        layer: Conv, ConvTranspose, Gemm, or MatMul by a constant.
        weight: its weight.
        factor: per input channel, ``[C]`` or ``[1]``.
    """
    groups = int(layer.attrs.get("group", 1))
    tail = [1] * (weight.ndim - 2)
    if layer.op == "Conv":
        channels = weight.shape[1] * groups
    elif layer.op == "Gemm" and layer.attrs.get("transB", 0):
        channels = weight.shape[1]
    else:
        channels = weight.shape[0]
    if factor.size not in (1, channels):
        return None
    factor = np.broadcast_to(factor, channels)
    if layer.op == "Conv":
        # [C_out, C_in / group, ...]: output channels of one group together.
        rows = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return rows.reshape(*weight.shape[:2], *tail)
    if layer.op == "Gemm" and layer.attrs.get("transB", 0):
        return factor.reshape(1, -1)
    return factor.reshape(-1, 1, *tail)


def _constants(layer: gs.Node) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Weight and bias (zero when there is none); None for what is not constant."""
    if not editing.is_standard(layer, *LAYERS):
        return None, None
    weight = editing.values(layer.inputs[1])
    given = editing.present(layer.inputs, 2)
    bias = np.zeros(1) if given is None else editing.values(given)
    if weight is None or weight.ndim < 2 or (layer.op == "MatMul" and weight.ndim > 2):
        return None, bias
    if bias is not None and bias.ndim > 1:
        bias = bias.ravel() if bias.shape[0] == 1 else None  # Gemm broadcasts [1, C]
    return weight, bias


def _output_channels(layer: gs.Node, weight: NDArray[Any]) -> int:
    if layer.op == "Conv":
        return int(weight.shape[0])
    if layer.op == "ConvTranspose":
        return int(weight.shape[1] * layer.attrs.get("group", 1))
    transposed = layer.op == "Gemm" and layer.attrs.get("transB", 0)
    return int(weight.shape[0 if transposed else 1])


def _along_outputs(layer: gs.Node, weight: NDArray[Any], gain: Vector) -> Vector:
    """`gain` in a shape that multiplies the output channels of the weight."""
    if layer.op == "Conv":
        return gain.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op in ("Gemm", "MatMul"):
        return gain.reshape(-1, 1) if layer.attrs.get("transB", 0) else gain.reshape(1, -1)
    # ConvTranspose: [C_in, C_out / group, ...], input channels of one group together.
    groups = int(layer.attrs.get("group", 1))
    per_group = np.repeat(gain.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return per_group.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
