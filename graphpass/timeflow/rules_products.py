"""Rules of products: linear in the one factor that varies in time."""

from __future__ import annotations

from dataclasses import replace

from graphpass.timeflow.broadcasting import along_channels, broadcast, literal_batch
from graphpass.timeflow.types import Refusal, TimeType
from graphpass.timeflow.view import (
    PER_SAMPLE,
    Verdict,
    View,
    kind_of,
    moved,
    not_finite,
    not_understood,
    rule,
)

_PRODUCT = Refusal(
    "multiplies two tensors that both vary in time; a product of spike trains is not the"
    " train of the product",
    "keep one side analog, or move the product behind the last activation",
)


_SUMS = Refusal(
    "sums over the batch",
    "this operator mixes samples; remove it, or, where a batch of size 1 was squeezed away,"
    " export the model with a symbolic batch",
    mixes=True,
)


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
    result = broadcast(view)
    if isinstance(result, Refusal) or not view.varying:
        return result
    if (refusal := not_finite(view)) is not None:
        return refusal
    (index,) = view.varying
    source = view.type(index)
    factor = view.constant(1 - index)
    # A factor that varies along the channels only leaves a train a train.
    if factor is None or not along_channels(view, index, factor):
        return result
    return replace(result, kind=source.kind, poolable=source.poolable)


@rule("MatMul")
def matmul(view: View) -> Verdict:
    """Matrix product with something that does not vary in time; channels are columns."""
    if len(view.varying) > 1:
        return _PRODUCT
    ranks = [view.rank(0), view.rank(1)]
    if None in ranks or max(r or 0 for r in ranks) < 2:
        return not_understood("multiplies vectors, or tensors of unknown rank")
    # A vector counts as a matrix of one row or column, which the product is without.
    vector = [rank == 1 for rank in ranks]
    rank = max(2, *(r or 0 for r in ranks))
    batch, inner = set(), 1
    for index, contracted in ((0, rank - 1), (1, rank - 2)):
        kind = view.type(index)
        if kind.batch_axis is None:
            continue
        axis = kind.batch_axis + rank - (ranks[index] or 0)
        if vector[index] or axis == contracted:
            return _SUMS
        batch.add(axis)
        inner = kind.inner
    if len(batch) > 1:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    batch_axis = batch.pop() if batch else None
    stacked = batch_axis is not None and batch_axis < rank - 2
    if stacked and (refusal := literal_batch(view, rank, batch_axis)) is not None:
        return refusal
    # The channels are what the weights lead to: columns of the right operand, rows of the left.
    weights_left = view.type(0).batch_axis is None and view.type(1).batch_axis is not None
    channel_axis = rank - 2 if 1 in view.varying or weights_left else rank - 1
    result = TimeType(kind_of(view), batch_axis, channel_axis, inner=inner)
    gone = [axis for axis, is_vector in zip((rank - 2, rank - 1), vector, strict=True) if is_vector]
    return moved(result, [axis for axis in range(rank) if axis not in gone].index)


@rule("Gemm")
def gemm(view: View) -> Verdict:
    """Computes alpha A'B' + beta C with the batch on the rows of A'."""
    if 1 in view.varying or 2 in view.varying:
        return Refusal(
            "has weights or a bias that vary in time, where only its first input may",
            "keep the activations before them (--keep)",
        )
    if view.type(1).batch_axis is not None:
        return PER_SAMPLE
    source = view.type()
    rows = 1 if view.attr("transA", 0) else 0
    if source.batch_axis not in (rows, None):
        return _SUMS
    return TimeType(kind_of(view), None if source.batch_axis is None else 0, 1, inner=source.inner)


@rule("Einsum")
def einsum(view: View) -> Verdict:
    """Products and sums over letters, none of them the batch, of one operand that varies."""
    if len(view.varying) > 1:
        return _PRODUCT
    terms, output = _letters(view)
    if output is None or any(view.rank(i) != len(term) for i, term in enumerate(terms)):
        return not_understood("multiplies by an equation with an ellipsis, or unknown ranks")
    carrying = [
        (index, term[axis])
        for index, term in enumerate(terms)
        if (axis := view.type(index).batch_axis) is not None
    ]
    letters = {letter for _, letter in carrying}
    if not letters:
        return TimeType(kind_of(view))
    (letter, *others) = sorted(letters)
    if others:
        return Refusal("its operands carry the batch on different axes", "transpose one of them")
    if letter not in output or any(term.count(letter) > 1 for term in terms):
        return _SUMS
    known = {index for index, _ in carrying}
    if any(letter in term for index, term in enumerate(terms) if index not in known):
        return Refusal("an operand has a literal batch size", "export it with a symbolic batch")
    inner = view.type(carrying[0][0]).inner
    source = view.varying[0] if view.varying else carrying[0][0]
    new = [axis for axis, name in enumerate(output) if name not in terms[source]]
    channel_axis = new[0] if len(new) == 1 else None
    return TimeType(kind_of(view), output.index(letter), channel_axis, inner=inner)


def _letters(view: View) -> tuple[list[str], str | None]:
    """The letters of every operand, and of the result; None where they cannot be read."""
    equation = view.attr("equation", "")
    equation = equation.decode() if isinstance(equation, bytes) else equation
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or len(terms) != len(view.types):
        return terms, None
    if not arrow:
        once = sorted(set(left) - {","})
        right = "".join(letter for letter in once if left.count(letter) == 1)
    return terms, right
