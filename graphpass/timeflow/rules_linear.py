"""Rules of operators that are linear (or affine) in the tensor that varies in time.

Such an operator gives the same mean whether it is applied to every step or to the
mean over time, so the time axis passes through it.
"""

from __future__ import annotations

from dataclasses import replace

from graphpass.timeflow.broadcasting import along_channels, broadcast
from graphpass.timeflow.types import Kind, Refusal, TimeType
from graphpass.timeflow.view import (
    PER_SAMPLE,
    UNLIKE_MEANS,
    Verdict,
    View,
    kind_of,
    not_finite,
    rule,
)


@rule("Identity", "Dropout", "Neg", "Cast")
def pass_through(view: View) -> Verdict:
    """Element by element, without an offset."""
    if view.node.op == "Cast" and view.varying and view.attr("to") not in (1, 11):
        return Refusal(
            "casts a varying tensor to a type that is not float or double", "remove the cast"
        )
    return view.type()


@rule("Add", "Sub", "Sum", "Mean")
def add(view: View) -> Verdict:
    """Sums; a constant or static summand is added at every step.

    The maximum of a train and a constant for each channel is found at the same places.
    """
    result = broadcast(view)
    if view.varying and (refusal := not_finite(view)) is not None:
        return refusal
    if isinstance(result, Refusal) or len(view.varying) != 1 or len(view.types) != 2:
        return result
    (index,) = view.varying
    source, summand = view.type(index), view.constant(1 - index)
    stays = summand is not None and along_channels(view, index, summand)
    return replace(result, poolable=source.poolable and stays)


@rule("Where")
def choose(view: View) -> Verdict:
    """A choice that is the same at every step is linear in what it chooses from."""
    if 0 in view.varying:
        return Refusal(
            "chooses by a condition that varies in time",
            "keep the activations before the condition (--keep)",
        )
    return broadcast(view)


@rule("Conv", "ConvTranspose")
def convolution(view: View) -> Verdict:
    """Convolution with weights that do not vary in time."""
    if (refusal := _unsteady_weights(view)) is not None:
        return refusal
    return _batch_first(view, kind_of(view))


def _unsteady_weights(view: View) -> Refusal | None:
    """All inputs but the first must be the same at every step and for every sample."""
    if set(view.varying) - {0}:
        return Refusal(
            "has weights that vary in time, where only its first input may",
            "keep the activations before them (--keep)",
        )
    if any(kind is not None and kind.batch_axis is not None for kind in view.types[1:]):
        return PER_SAMPLE
    return None


@rule("BatchNormalization")
def batch_norm(view: View) -> Verdict:
    """Inference mode: one factor and one offset per channel."""
    if view.attr("training_mode", 0):
        return Refusal("normalises in training mode", "export the model in evaluation mode")
    if (refusal := _unsteady_weights(view)) is not None:
        return refusal
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
        if source.pair:
            return Refusal(
                "takes the maximum behind a function that falls and rises, whose two trains do not"
                " say at a step which value is the larger one",
                "use an activation that does not fall in front of the pool",
            )
        if not source.poolable:
            return UNLIKE_MEANS
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
