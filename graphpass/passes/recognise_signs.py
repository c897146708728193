"""A choice between two constants by the sign of a current becomes a neuron of one level."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing, weights
from graphpass.model import Model
from graphpass.neurons import Ties, qcfs
from graphpass.passes.base import Pass

_MASK = 2.0**10
_Array = NDArray[Any]


class RecogniseSigns(Pass):
    """Where(x < b, low, high) becomes low + QCFS(x - b + theta/2), T = 1, theta = high - low.

    That fires where (x - b) / theta + 1 reaches 1, which is from b on: binary activations, as
    BipolarQuant has them. Bounds and constants may differ by channel. A comparison that no
    layer precedes is no activation, and neither is a mask, whose constants drown what they
    replace.
    """

    def apply(self, model: Model) -> int:
        """Wherever the comparison is of a tensor of the network."""
        if model.opset < dialect.OLDEST_HALF_EVEN:  # the oldest Where and Less that broadcast
            return 0
        return sum(_try_recognise(model, node) for node in list(model.graph.nodes))


def _try_recognise(model: Model, where: gs.Node) -> bool:
    if (
        not editing.is_standard(where, "Where")
        or not where.outputs
        or len(where.inputs[0].inputs) != 1
    ):
        return False
    less = where.inputs[0].inputs[0]
    if not editing.is_standard(less, "Less") or len(where.inputs[0].outputs) != 1:
        return False
    source, bound = less.inputs[0], editing.values(less.inputs[1])
    low, high = (editing.values(tensor) for tensor in where.inputs[1:])
    shape = source.shape
    if bound is None or low is None or high is None or shape is None:
        return False
    if any(kind != np.float32 for kind in (source.dtype, bound.dtype, low.dtype, high.dtype)):
        return False
    if not editing.is_behind(source, lambda node: editing.is_standard(node, *weights.LAYERS)):
        return False
    with np.errstate(all="ignore"):
        theta = high - low
    if not all(_is_per_channel(array, len(shape)) for array in (bound, low, theta)):
        return False
    if not ((theta > 0) & (theta < _MASK)).all() or not np.isfinite(bound).all():
        return False
    output = where.outputs[0]
    raised = _sum(model, source, theta / 2 - bound, f"{output.name}/above_zero")
    spikes = gs.Variable(editing.fresh_name(model, f"{output.name}/sign"), np.dtype("f4"), shape)
    editing.detach(where)
    neuron = qcfs.node(model, raised, spikes, theta, 1, Ties.HALF_UP)
    model.graph.nodes.append(neuron)
    _sum(model, spikes, low, output.name, output)
    return True


def _is_per_channel(array: _Array, rank: int) -> bool:
    """Does it vary along one axis at most, and add none?"""
    return array.ndim <= rank and sum(size != 1 for size in array.shape) <= 1


def _sum(
    model: Model,
    tensor: gs.Tensor,
    array: _Array,
    name: str,
    output: gs.Variable | None = None,
) -> gs.Variable:
    by = editing.constant(model, f"{name}/by", array.astype(np.float32))
    if output is None:
        output = gs.Variable(editing.fresh_name(model, name), tensor.dtype, tensor.shape)
    model.graph.nodes.append(gs.Node("Add", name, inputs=[tensor, by], outputs=[output]))
    return output
