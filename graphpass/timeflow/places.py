"""Where the batch goes in operators that are not linear.

They compute on rates, or on what does not vary in time, so that nothing has to be linear;
what they give is read by others that want to know where the batch and the channels are.
A refusal says that the operator mixes samples, or that this cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.timeflow.broadcasting import broadcast
from graphpass.timeflow.rules_linear import convolution
from graphpass.timeflow.rules_products import matmul
from graphpass.timeflow.types import TimeType
from graphpass.timeflow.view import MIXES, Rule, Verdict, View, moved, not_understood

_ELEMENTWISE = (
    "Abs Acos Acosh And Asin Asinh Atan Atanh BitShift Ceil Celu Clip Cos Cosh Elu Equal Erf Exp"
    " Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less"
    " LessOrEqual Log Max Min Mish Mod Not Or PRelu Pow QuickGelu Reciprocal Relu Round Selu"
    " Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Xor"
).split()

_PLACES: dict[str, Rule] = {}


def place(*ops: str) -> Callable[[Rule], Rule]:
    """Register where the batch goes in these operators."""

    def register(function: Rule) -> Rule:
        _PLACES.update(dict.fromkeys(ops, function))
        return function

    return register


def find_place(node: gs.Node) -> Rule | None:
    """What says where the batch goes, None for operators that are not known."""
    known = editing.is_standard(node, node.op) or node.domain == "com.microsoft"
    return _PLACES.get(node.op) if known else None


@place(*_ELEMENTWISE)
def element_by_element(view: View) -> Verdict:
    """Bounds and slopes may be scalars that are left out."""
    present = [t for t in view.types if t is not None]
    if len(present) < len(view.types) or view.node.op == "Clip":
        return view.type()
    return broadcast(view)


# Rounded to integers, a layer is none in time, but puts everything where it would.
place("ConvInteger")(convolution)
place("MatMulInteger")(matmul)


@place("Softmax", "LogSoftmax", "Hardmax")
def softmax(view: View) -> Verdict:
    """Up to opset 12 all axes from the given one on are normalised together."""
    rank, kind = view.rank(), view.type()
    if rank is None:
        return not_understood("normalises a tensor of unknown rank")
    axis = int(view.attr("axis", -1 if view.opset >= 13 else 1)) % rank
    batch = kind.batch_axis
    mixed = batch is not None and (batch == axis if view.opset >= 13 else batch >= axis)
    return MIXES if mixed else kind


@place("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def normalise_from_axis(view: View) -> Verdict:
    """All axes from the given one on are normalised together."""
    rank, kind = view.rank(), view.type()
    if rank is None:
        return not_understood("normalises a tensor of unknown rank")
    axis = int(view.attr("axis", -1)) % rank
    return MIXES if kind.batch_axis is not None and kind.batch_axis >= axis else kind


@place("BiasGelu", "FastGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def last_axis(view: View) -> Verdict:
    """Fused operators of transformers: biases and normalisation along the last axis."""
    rank, kind = view.rank(), view.type()
    return MIXES if rank is None or kind.batch_axis == rank - 1 else kind


@place("InstanceNormalization", "GroupNormalization", "LRN", "LpPool", "GlobalLpPool")
def sample_by_sample(view: View) -> Verdict:
    """Normalises or pools every sample alone."""
    return view.type() if view.type().batch_axis in (0, None) else MIXES


@place("LpNormalization", "TopK")
def along_one_axis(view: View) -> Verdict:
    """Works along one axis."""
    rank, kind = view.rank(), view.type()
    if rank is None:
        return not_understood("works along an axis of a tensor of unknown rank")
    axis = int(view.attr("axis", -1)) % rank
    return MIXES if kind.batch_axis == axis else kind


@place(
    *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum"),
    *("ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin"),
)
def reduce(view: View) -> Verdict:
    """Axes go away."""
    rank, kind = view.rank(), view.type()
    if rank is None or view.hidden:
        return not_understood("reduces a tensor of unknown rank, or axes that are not constant")
    single = view.node.op.startswith("Arg")
    axes = [int(view.attr("axis", 0)) % rank] if single else view.axes(1, rank)
    axes = axes or list(range(rank))
    if kind.batch_axis in axes:
        return MIXES
    if view.attr("keepdims", 1):
        lost = kind.channel_axis in axes
        return replace(kind, channel_axis=None if lost else kind.channel_axis)
    return moved(kind, [axis for axis in range(rank) if axis not in axes].index)


@place("LSTM", "GRU", "RNN")
def recurrent(view: View) -> Verdict:
    """Of the outputs, Y; the batch lies on axis 1 of X, and on axis 2 of Y."""
    if view.attr("layout", 0) or view.type().batch_axis not in (1, None):
        return not_understood("reads a sequence whose batch is not on axis 1")
    states = [index for index in (5, 6) if index < len(view.types) and view.types[index]]
    if any(view.type(index).batch_axis is None for index in states):
        return not_understood("starts from a state of literal batch size")
    kind = view.type()
    return TimeType(kind.kind, None if kind.batch_axis is None else 2, 3, inner=kind.inner)
