"""Moving a neuron's gain and offset into what computes its current.

u = gain z + offset costs two passes over memory. Layers take both into their weights, and
sums, pools and concatenations pass them on to what they read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing, weights
from graphpass.model import Model
from graphpass.neurons import parameters
from graphpass.weights import Vector


@dataclass(frozen=True)
class Charge:
    """gain * z + offset per channel.

    Attributes:
        gain: positive, float64 ``[C]`` or ``[1]``.
        offset: float64, the same shape.
        axis: axis of the channels of z, None for one value.
    """

    gain: Vector
    offset: Vector
    axis: int | None

    def without_offset(self) -> Charge:
        """The gain alone."""
        return replace(self, offset=np.zeros_like(self.offset))

    def after(self, other: Charge) -> Charge:
        """What makes its own result of `other`'s; both are along one axis."""
        gain = self.gain / other.gain
        return replace(self, gain=gain, offset=self.offset - gain * other.offset)


def charged(model: Model, current: gs.Tensor, charge: Charge) -> gs.Tensor:
    """A tensor that holds gain * current + offset, with as few new nodes as possible.

    The tensor that comes back is `current` itself when what computes it could take the
    charge; that is done only where nobody else reads it.
    """
    node = current.inputs[0] if len(current.inputs) == 1 else None
    if node is not None and (factor := _factor(node, charge)) is not None:
        combined = replace(charge, gain=charge.gain * factor)
        return _explicit(model, node.inputs[0], combined)
    if node is not None and editing.single_consumer(model, current) is not None:
        if _try_layer(model, node, charge) or _try_sum(model, node, charge):
            return current
        if _try_pool(model, node, charge) or _try_concat(model, node, charge):
            return current
    return _explicit(model, current, charge)


def _try_layer(model: Model, node: gs.Node, charge: Charge) -> bool:
    if not editing.is_standard(node, *weights.LAYERS) or node.outputs[0].shape is None:
        return False
    axis = weights.output_axis(node, len(node.outputs[0].shape))
    if charge.axis not in (axis, None):
        return False
    return weights.scale_outputs(model, node, charge.gain, charge.offset)


def _try_sum(model: Model, node: gs.Node, charge: Charge) -> bool:
    """Gain (a + b) + offset = (gain a + offset) + gain b."""
    if not editing.is_standard(node, "Add"):
        return False
    constants = [i for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant)]
    rank = len(node.outputs[0].shape or ())
    if constants:
        (index,) = constants
        name = f"{node.outputs[0].name}/summand"
        known = np.asarray(node.inputs[index].values)
        scaled = known * parameters.beside(charge.gain, rank, charge.axis)
        summand = scaled + parameters.beside(charge.offset, rank, charge.axis)
        node.inputs[1 - index] = charged(model, node.inputs[1 - index], charge.without_offset())
        node.inputs[index] = editing.constant(model, name, summand.astype(known.dtype))
        return True
    shapes = [tensor.shape for tensor in node.inputs]
    if None in shapes or shapes[0] != shapes[1] or node.inputs[0] is node.inputs[1]:
        return False
    # The offset goes where a layer can take it for nothing.
    first = 1 if _is_layer_of_one(model, node.inputs[1]) else 0
    for index, part in ((first, charge), (1 - first, charge.without_offset())):
        node.inputs[index] = charged(model, node.inputs[index], part)
    return True


def _is_layer_of_one(model: Model, tensor: gs.Tensor) -> bool:
    layer = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    alone = editing.single_consumer(model, tensor) is not None
    return alone and layer is not None and editing.is_standard(layer, *weights.LAYERS)


def _try_pool(model: Model, node: gs.Node, charge: Charge) -> bool:
    """Averages and, since the gain is positive, maxima commute with a charge."""
    if not editing.is_standard(node, "MaxPool", "AveragePool", "GlobalAveragePool"):
        return False
    padded = node.op == "AveragePool" and any(node.attrs.get("pads", ()))
    padded |= node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if charge.axis not in (1, None) or (padded and np.any(charge.offset)):
        return False
    node.inputs[0] = charged(model, node.inputs[0], charge)
    return True


def _try_concat(model: Model, node: gs.Node, charge: Charge) -> bool:
    if not editing.is_standard(node, "Concat") or node.attrs.get("axis") != charge.axis:
        return False
    if any(t.shape is None or isinstance(t, gs.Constant) for t in node.inputs):
        return False
    sizes = [tensor.shape[charge.axis] for tensor in node.inputs]
    if not all(isinstance(size, int) for size in sizes) or sum(sizes) != charge.gain.size:
        return False
    ends = list(np.cumsum(sizes))
    for index, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        part = slice(end - size, end)
        own = replace(charge, gain=charge.gain[part], offset=charge.offset[part])
        node.inputs[index] = charged(model, node.inputs[index], own)
    return True


def _factor(node: gs.Node, charge: Charge) -> Vector | None:
    """The amplitudes, or other factors per channel, that a node multiplies its input by."""
    known = editing.values(node.inputs[1]) if editing.is_standard(node, "Mul") else None
    if known is None:
        return None
    rank = len(node.outputs[0].shape or ())
    fits = parameters.beside(charge.gain, rank, charge.axis).shape == known.shape
    return known.astype(np.float64).ravel() if fits or known.ndim == 0 else None


def _explicit(model: Model, tensor: gs.Tensor, charge: Charge) -> gs.Tensor:
    """Nodes of their own: a product and, where there is an offset, a sum."""
    rank, dtype = len(tensor.shape or ()), np.dtype(np.float32)
    result = tensor
    for op, array in (("Mul", charge.gain), ("Add", charge.offset)):
        if op == "Add" and not np.any(array):
            continue
        name = editing.fresh_name(model, f"{tensor.name}/{'gain' if op == 'Mul' else 'offset'}")
        factor = parameters.beside(array.astype(dtype), rank, charge.axis)
        output = gs.Variable(f"{name}/output", dtype, tensor.shape)
        model.graph.nodes.append(
            gs.Node(op, name, inputs=[result, gs.Constant(name, factor)], outputs=[output])
        )
        result = output
    return result


def positive(vector: Vector) -> bool:
    """Are all factors positive and finite?"""
    return bool(np.all(vector > 0)) and math.isfinite(float(vector.max()))
