"""Rules of operators that are linear (or affine) in the tensor that varies in time.

Such an operator gives the same mean whether it is applied to every step or to the
mean over time, so the time axis passes through it.
"""

from __future__ import annotations

from dataclasses import replace

from graphpass.timeflow.types import Kind, Refusal, TimeType
from graphpass.timeflow.view import Verdict, View, kind_of, not_understood, rule

_PRODUCT = Refusal(
    "multiplies two tensors that both vary in time; a product of spike trains is not the"
    " train of the product",
    "keep one side analog, or move the product behind the last activation",
)


@rule("Identity", "Dropout", "Neg", "Cast")
def pass_through(view: View) -> Verdict:
    """Element by element, without an offset."""
    if view.node.op == "Cast" and view.varying and view.attr("to") not in (1, 10, 11, 16):
        return Refusal("casts a varying tensor to a type that is not float", "remove the cast")
    return view.type()


@rule("Add", "Sub", "Sum")
def add(view: View) -> Verdict:
    """Sums; a constant or static summand is added at every step."""
    return _broadcast(view)


@rule("Mul")
def multiply(view: View) -> Verdict:
    """Product with something that does not vary in time."""
    if len(view.varying) > 1:
        return _PRODUCT
    return _scaled(view)


@rule("Div")
def divide(view: View) -> Verdict:
    """Quotient by something that does not vary in time."""
    if 1 in view.varying:
        return Refusal(
            "divides by a tensor that varies in time", "move the division behind the last neuron"
        )
    return _scaled(view)


def _scaled(view: View) -> Verdict:
    result = _broadcast(view)
    if isinstance(result, Refusal) or not view.varying:
        return result
    (index,) = view.varying
    source = view.type(index)
    factor = view.constant(1 - index)
    if factor is None or source.kind is not Kind.SPIKES:
        return result
    # A factor that varies along the channels only leaves a train a train.
    rank = view.rank(index) or 0
    along = [axis + rank - factor.ndim for axis, size in enumerate(factor.shape) if size > 1]
    if all(axis == source.channel_axis for axis in along):
        return replace(result, kind=Kind.SPIKES, poolable=source.poolable)
    return result


def _broadcast(view: View) -> Verdict:
    """Common type of operands under NumPy broadcasting."""
    ranks = [view.rank(i) for i in range(len(view.types))]
    if any(r is None for r in ranks):
        return not_understood("broadcasts a tensor of unknown rank")
    rank = max(r for r in ranks if r is not None)
    batch: set[tuple[int, int]] = set()
    channels: set[int] = set()
    for index in range(len(view.types)):
        kind, offset = view.type(index), rank - (ranks[index] or 0)
        if kind.batch_axis is not None:
            batch.add((kind.batch_axis + offset, kind.inner))
        if kind.channel_axis is not None:
            channels.add(kind.channel_axis + offset)
    if len(batch) > 1:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    batch_axis, inner = batch.pop() if batch else (None, 1)
    if (refusal := _literal_batch(view, rank, batch_axis)) is not None:
        return refusal
    return TimeType(
        kind_of(view), batch_axis, channels.pop() if len(channels) == 1 else None, inner=inner
    )


def _literal_batch(view: View, rank: int, batch_axis: int | None) -> Refusal | None:
    """An operand that does not carry the batch must have size 1 there, or no such axis."""
    for index in range(len(view.types)):
        shape = view.shape(index) or []
        axis = -1 if batch_axis is None else batch_axis - rank + len(shape)
        if view.type(index).batch_axis is None and axis >= 0 and shape[axis] != 1:
            return Refusal(
                f"an operand has the literal size {shape[axis]} on the batch axis",
                "export the model with a symbolic batch",
            )
    return None


@rule("MatMul")
def matmul(view: View) -> Verdict:
    """Matrix product with something that does not vary in time; channels are columns."""
    if len(view.varying) > 1:
        return _PRODUCT
    ranks = [view.rank(i) or 0 for i in range(2)]
    if min(ranks) < 2:
        return not_understood("multiplies vectors, or tensors of unknown rank")
    rank = max(ranks)
    batch, inner = set(), 1
    for index, contracted in ((0, ranks[0] - 1), (1, ranks[1] - 2)):
        kind = view.type(index)
        if kind.batch_axis is None:
            continue
        if kind.batch_axis == contracted:
            return Refusal("sums over the batch", "this operator mixes samples; remove it")
        batch.add(kind.batch_axis + rank - ranks[index])
        inner = kind.inner
    if len(batch) > 1:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    batch_axis = batch.pop() if batch else None
    stacked = batch_axis is not None and batch_axis < rank - 2
    if stacked and (refusal := _literal_batch(view, rank, batch_axis)) is not None:
        return refusal
    # The channels are what the weights lead to: columns of the right operand, rows of the left.
    weights_left = view.type(0).batch_axis is None and view.type(1).batch_axis is not None
    channel_axis = rank - 2 if 1 in view.varying or weights_left else rank - 1
    return TimeType(kind_of(view), batch_axis, channel_axis, inner=inner)


@rule("Gemm")
def gemm(view: View) -> Verdict:
    """Computes alpha A'B' + beta C with the batch on the rows of A'."""
    if 1 in view.varying or 2 in view.varying:
        return Refusal("the weights or the bias of a Gemm vary in time", "only its first input may")
    source = view.type()
    rows = 1 if view.attr("transA", 0) else 0
    if source.batch_axis not in (rows, None):
        return Refusal("sums over the batch", "this operator mixes samples; remove it")
    return TimeType(kind_of(view), None if source.batch_axis is None else 0, 1, inner=source.inner)


@rule("Conv", "ConvTranspose")
def convolution(view: View) -> Verdict:
    """Convolution with weights that do not vary in time."""
    if set(view.varying) - {0}:
        return Refusal("the weights of a convolution vary in time", "only its first input may")
    return _batch_first(view, kind_of(view))


@rule("BatchNormalization")
def batch_norm(view: View) -> Verdict:
    """Inference mode: one factor and one offset per channel."""
    if view.attr("training_mode", 0):
        return Refusal("normalises in training mode", "export the model in evaluation mode")
    return _batch_first(view, kind_of(view))


@rule("AveragePool", "GlobalAveragePool")
def average_pool(view: View) -> Verdict:
    """Means over windows."""
    return _batch_first(view, kind_of(view))


@rule("MaxPool", "GlobalMaxPool")
def max_pool(view: View) -> Verdict:
    """Exact on sorted trains: the maximum of nested trains is the train of the maximum."""
    source = view.type()
    if view.varying:
        if source.kind is not Kind.SPIKES or not source.poolable:
            return Refusal(
                "takes the maximum of currents that differ per step, which is not the"
                " maximum of their means",
                "put an activation between, or pool before the sum",
            )
        if source.channel_axis not in (None, 1):
            return Refusal(
                "takes the maximum over channels, whose spikes differ in amplitude",
                "transpose the channels to axis 1",
            )
        if len(view.node.outputs) > 1:
            return Refusal("its Indices output is used", "remove the use of the indices")
    result = _batch_first(view, source.kind)
    return result if isinstance(result, Refusal) else replace(result, poolable=source.poolable)


def _batch_first(view: View, kind: Kind) -> Verdict:
    source = view.type()
    if source.batch_axis not in (0, None):
        return Refusal("reads the batch from another axis than 0", "transpose before it")
    return TimeType(kind, source.batch_axis, 1, inner=source.inner)
