"""Layers between two quantisers that stay: their integer weights are DequantizeLinear again.

ONNX Runtime computes such layers on integers. Weights that it finds in float32 there, it rounds
to int8 itself, with one scale a tensor (its WeightBiasQuantization): the network would be another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_OLDEST_AXIS = 13  # the first opset whose DequantizeLinear has a scale per channel
_LARGEST_BIAS = 2**31 - 1

#: What ONNX Runtime moves quantisers through.
_MOVING = (
    "DepthToSpace Expand Flatten Identity MaxPool Reshape Slice SpaceToDepth Squeeze Transpose"
    " Unsqueeze"
).split()

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Parts:
    """Weights (integers - middle) * scale."""

    integers: _Array
    middle: _Array
    scale: _Array


class KeepIntegerKernels(Pass):
    """Mul(Sub(Cast(integers), zero), scale) becomes DequantizeLinear where a layer needs it.

    Such a layer reads a DequantizeLinear, and a QuantizeLinear reads what it writes, through
    operators that move values, or a Relu or Clip. Everywhere else the weights stay as they
    are, since ONNX Runtime would compute a DequantizeLinear in every run.

    Weights that no DequantizeLinear of their type says stay, too: scales that are not along the
    output channels, or biases far beyond the products that they are added to.
    """

    def apply(self, model: Model) -> int:
        """Once the quantisers that become neurons are gone."""
        layers = [n for n in model.graph.nodes if editing.is_standard(n, *_LAYERS)]
        return sum(
            _try_dequantise(model, layer, step)
            for layer in layers
            if (step := _step_read(layer)) is not None and _writes_integers(layer)
        )


def _step_read(layer: gs.Node) -> float | None:
    """The step of the integers that a layer reads."""
    tensor = layer.inputs[0]
    while len(tensor.inputs) == 1 and editing.is_standard(tensor.inputs[0], *_MOVING):
        tensor = tensor.inputs[0].inputs[0]
    makers = [n for n in tensor.inputs if editing.is_standard(n, "DequantizeLinear")]
    return editing.scalar(makers[0].inputs[1]) if makers else None


def _writes_integers(layer: gs.Node) -> bool:
    tensor = layer.outputs[0]
    while len(tensor.outputs) == 1 and editing.is_standard(
        tensor.outputs[0], *_MOVING, "Relu", "Clip"
    ):
        tensor = tensor.outputs[0].outputs[0]
    return any(editing.is_standard(reader, "QuantizeLinear") for reader in tensor.outputs)


def _try_dequantise(model: Model, layer: gs.Node, step: float) -> bool:
    parts = _parts(layer.inputs[1])
    if parts is None:
        return False
    integers, kind = parts.integers, parts.integers.dtype
    axis = _output_axis(layer) if model.opset >= _OLDEST_AXIS else None
    scale, middle = _along(parts.scale, axis), _along(parts.middle, axis)
    if scale is None or middle is None:
        return False
    scale, middle = np.broadcast_arrays(scale, middle)
    # Scales are positive: where one is not, the integers turn over, or are all zero.
    shape = [-1 if i == axis else 1 for i in range(integers.ndim)] if scale.size > 1 else []
    factor, zero = scale.reshape(shape), middle.reshape(shape)
    turned = np.where(factor < 0, 2 * zero - integers, np.where(factor == 0, zero, integers))
    step_of_weights = np.where(factor == 0, np.float32(1), np.abs(factor)).reshape(scale.shape)
    if not (
        _fits(kind, turned) and _fits(kind, zero) and _bias_fits(layer, step_of_weights * step)
    ):
        return False
    name = editing.fresh_name(model, f"{layer.outputs[0].name}/weight_read")
    value = gs.Variable(name, np.dtype(np.float32), list(integers.shape))
    shape = [-1] if scale.size > 1 else []
    operands = [
        editing.constant(model, f"{name}/integers", turned.astype(kind)),
        editing.constant(model, f"{name}/scale", step_of_weights.reshape(shape).astype(np.float32)),
        editing.constant(model, f"{name}/zero", middle.reshape(shape).astype(kind)),
    ]
    attributes = {"axis": axis} if shape else {}
    model.graph.nodes.append(gs.Node("DequantizeLinear", name, attributes, operands, [value]))
    layer.inputs[1] = value
    return True


@np.errstate(over="ignore", invalid="ignore")  # what is not finite stays so
def _parts(weight: gs.Tensor) -> _Parts | None:
    """What `SpellIntegerWeights` and the folding of gains wrote; None for other weights."""
    middle, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
    while len(weight.inputs) == 1 and editing.is_standard(weight.inputs[0], "Mul", "Sub", "Cast"):
        node = weight.inputs[0]
        weight = node.inputs[0]
        if node.op == "Cast":
            integers = editing.values(weight)
            if integers is None or integers.dtype.kind not in "iu":
                return None
            return _Parts(integers, middle, scale)
        operand = editing.values(node.inputs[1])
        if operand is None:
            return None
        middle, scale = (operand, scale) if node.op == "Sub" else (middle, scale * operand)
    return None


def _output_axis(layer: gs.Node) -> int | None:
    if layer.op == "ConvTranspose":
        return 1 if int(layer.attrs.get("group", 1)) == 1 else None
    return 1 if layer.op == "Gemm" and not layer.attrs.get("transB", 0) else 0


def _along(array: _Array, axis: int | None) -> _Array | None:
    """One number, or one for each channel; None if it varies otherwise."""
    flat: _Array = array.reshape(-1)
    if not flat.size:
        return None
    if flat.size == 1 or (flat == flat[0]).all():
        return flat[:1]
    if axis is None or axis >= array.ndim or array.shape[axis] != flat.size:
        return None
    return flat


def _fits(kind: np.dtype[Any], array: _Array) -> bool:
    ends = np.iinfo(kind)
    within = (ends.min <= array) & (array <= ends.max) & (array == np.rint(array))
    return bool(within.all())


def _bias_fits(layer: gs.Node, step: _Array) -> bool:
    """Does the bias fit into 32 bits, in steps of the products? ONNX Runtime rounds it to them."""
    given = editing.present(layer.inputs, 2)
    if given is None:
        return True
    bias = editing.values(given)
    return bias is not None and bool((np.abs(bias.ravel()) <= _LARGEST_BIAS * step).all())
