"""Stage 1: every scalar function that will spike becomes a sum of bounded, rising pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing
from graphpass.curves import Array, Curve, Piece, Unfit
from graphpass.model import Model
from graphpass.neurons import Neuron, parameters
from graphpass.passes.base import Pass
from graphpass.regions import Region, find_regions
from graphpass_runtime.errors import ModelError

_INHIBITORY = "/inhibitory"
_EXCITATORY = "/excitatory"  # where the name of the activation is that of an output

# The narrowest range of a neuron, as a share of its values, and of all values that there are
# of a bounded function. What differs by less is hardly told apart from rounding.
_NARROWEST = 2.0**-6
_FAR = np.float32(2.0**10)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Where a neuron's range begins and how far it goes, float32 ``[C]``.

    Attributes:
        floor: the value of sign * f that no spike stands for.
        threshold: how far above it sign * f may go.
        axis: axis of the channels, None for one value.
    """

    floor: Array
    threshold: Array
    axis: int | None


class BoundFunctions(Pass):
    """F(z) becomes floor + ClipAbove(f(z)), and pieces of it where f turns.

    With a turning point z*, f(z) = f(min(z, z*)) + f(max(z, z*)) - f(z*) exactly, and
    neither part turns. Where a part falls, its negative rises: that neuron is inhibitory.
    All constants meet in one sum behind the neurons. Its result may not go into a bias
    across zero padding, and no pass moves it.
    """

    def __init__(self, bounds: Mapping[str, Bounds]) -> None:
        """Take the bounds of every neuron, by its name (`neuron_names`)."""
        self._bounds = bounds

    def apply(self, model: Model) -> int:
        """Functions that share nodes get copies of their own."""
        regions = find_regions(model)
        count = 0
        for region in regions.values():
            names = neuron_names(model, region)
            if any(name in self._bounds for name in names):
                inside = {id(n) for r in regions.values() if r is not region for n in r.nodes}
                _bound(model, region, names, self._bounds, inside)
                count += 1
        return count


def bound_for(model: Model, neurons: Iterable[Neuron]) -> None:
    """Give an ANN a node for every neuron behind a function, with the bounds of its record.

    Args:
        model: stage 0, or stage 1, which has them.
        neurons: of a later stage of the same conversion.

    Raises:
        ModelError: they are not those of the ANN's functions.
    """
    bounds = {
        neuron.name: Bounds(neuron.baseline, neuron.threshold, neuron.channel_axis)
        for neuron in neurons
        if neuron.baseline is not None
    }
    for region in find_regions(model).values() if bounds else ():
        names = neuron_names(model, region)
        found = [bounds[name] for name in names if name in bounds]
        if found and not (len(found) == len(names) and all(_fits(region, one) for one in found)):
            raise ModelError(
                f"has other neurons behind '{region.sink.name}' than the SNN",
                where=model.name,
                remedy="give the ANN that the SNN was converted from",
            )
    BoundFunctions(bounds)(model)


def _fits(region: Region, bounds: Bounds) -> bool:
    """Can a function have these bounds?"""
    shape, axis = region.source.shape, bounds.axis
    if axis is None:
        return region.axis is None
    known = axis < len(shape) and region.axis in (None, axis)
    return known and (bounds.floor.size in (1, shape[axis]) or not isinstance(shape[axis], int))


def pieces(model: Model, region: Region) -> tuple[Piece, ...]:
    """The parts of a function that do not turn; none when it is no staircase."""
    found = Curve.of(region, model.opset).pieces()
    return () if isinstance(found, Unfit) else found


def neuron_names(model: Model, region: Region) -> dict[str, Piece]:
    """What the neurons of an activation are called, by the names of the pieces they stand for.

    The excitatory neuron, and the only one, has the activation's name.
    """
    found, name = pieces(model, region), region.sink.name
    first = f"{name}{_EXCITATORY}" if editing.is_output(model, region.sink) else name
    if len(found) == 1:
        return {first: found[0]}
    return {first if piece.sign > 0 else f"{name}{_INHIBITORY}": piece for piece in found}


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is refused with the neuron
def bounds_between(
    model: Model, region: Region, low: Array, high: Array, axis: int | None
) -> dict[str, Bounds]:
    """Bounds of an activation's neurons from the smallest and the largest current.

    Args:
        model: stage 0.
        region: the activation.
        low: smallest current, float32 ``[C]``, or ``[1]``.
        high: largest current.
        axis: axis of the channels.
    """
    curve, bounds = Curve.of(region, model.opset), {}
    for name, piece in neuron_names(model, region).items():
        ends = np.stack([_within(piece, low), _within(piece, high)])
        first, last = np.sort(piece.sign * curve(ends), axis=0)
        least = np.maximum(np.maximum(np.abs(first), np.abs(last)), _span(curve, piece))
        threshold = np.maximum(last - first, least * np.float32(_NARROWEST))
        varies = (last > first) & (threshold >= parameters.SMALLEST_THRESHOLD)
        bounds[name] = Bounds(first, _for_constants(threshold, varies), axis)
    return bounds


def _for_constants(threshold: Array, varies: NDArray[np.bool_]) -> Array:
    """Channels on which a piece was constant, as on one that never turns, stay silent."""
    largest = threshold[varies].max(initial=0.0) or 1.0
    return np.where(varies, threshold, np.float32(largest))


def _span(curve: Curve, piece: Piece) -> Array:
    """How far apart the values of a piece can lie at most, ``[C]``; 0 when without bounds."""
    far = np.full((1, curve.channels), _FAR, np.float32)
    span = np.ptp(curve(np.concatenate([_within(piece, -far), _within(piece, far)])), axis=0)
    return np.where(span < _FAR, span, np.float32(0))


def _within(piece: Piece, currents: Array) -> Array:
    above = currents if piece.low is None else np.maximum(currents, piece.low)
    return above if piece.high is None else np.minimum(above, piece.high)


def _bound(
    model: Model,
    region: Region,
    names: Mapping[str, Piece],
    bounds: Mapping[str, Bounds],
    inside: Set[int],
) -> None:
    sink, base = region.sink, region.sink.name
    others = [node for node in sink.outputs if id(node) in inside]
    if not editing.is_output(model, sink):
        sink.name = editing.fresh_name(model, f"{base}/analog")
    summed: gs.Tensor | None = None
    parts: list[Array] = []
    axis = None
    for name, piece in sorted(names.items(), key=lambda item: -item[1].sign):
        limits = bounds[name]
        value = _copied(model, region, piece, name)
        spiking = _clipped(model, value, piece.sign, limits, name)
        parts.append(piece.sign * limits.floor)
        axis = limits.axis
        if summed is not None:
            summed = _joined(model, "Sub", [summed, spiking], f"{base}/difference")
            parts.append(-_at_turn(model, region, names))
        elif piece.sign < 0:
            minus = editing.constant(model, f"{base}/minus", np.array(-1, np.float32))
            summed = _joined(model, "Mul", [spiking, minus], f"{base}/negative")
        else:
            summed = spiking
    assert summed is not None, "a staircase has a piece"
    baseline = _summed(parts)
    if np.any(baseline):
        shaped = parameters.beside(baseline, len(region.source.shape), axis)
        constant = editing.constant(model, f"{base}/baseline", shaped)
        summed = _joined(model, "Add", [summed, constant], f"{base}/restored")
    editing.redirect(model, sink, summed)
    for node in others:  # they are nodes of another function, which reads the analog value
        node.inputs = [sink if tensor is summed else tensor for tensor in node.inputs]


def _at_turn(model: Model, region: Region, names: Mapping[str, Piece]) -> Array:
    """The function where its pieces meet, ``[C]``."""
    turn = next(piece.low for piece in names.values() if piece.low is not None)
    values: Array = Curve.of(region, model.opset)(turn[None])[0]
    return values


def _summed(parts: Sequence[Array]) -> Array:
    """Per channel, rounded once: channels that never turn have huge parts that cancel."""
    columns = np.stack(np.broadcast_arrays(*parts), axis=-1)
    return np.array([math.fsum(column) for column in columns], np.float32)


def _copied(model: Model, region: Region, piece: Piece, name: str) -> gs.Tensor:
    """The function of the current, kept within a piece."""
    source = region.source
    rank = len(source.shape)
    for op, end in (("Max", piece.low), ("Min", piece.high)):
        if end is not None:
            shaped = parameters.beside(end, rank, region.axis)
            limit = editing.constant(model, f"{name}/{op}/limit", shaped)
            source = _joined(model, op, [source, limit], f"{name}/{op}")
    made: dict[int, gs.Tensor] = {id(region.source): source}
    for node in region.nodes:
        (output,) = node.outputs
        fresh = editing.fresh_name(model, f"{name}/{output.name}")
        made[id(output)] = gs.Variable(fresh, output.dtype, output.shape)
        inputs = [made.get(id(tensor), tensor) for tensor in node.inputs]
        copy = gs.Node(node.op, fresh, dict(node.attrs), inputs, [made[id(output)]])
        model.graph.nodes.append(copy)
    return made[id(region.sink)]


def _clipped(model: Model, value: gs.Tensor, sign: int, limits: Bounds, name: str) -> gs.Variable:
    rank = len(value.shape)
    floor, threshold = (
        parameters.beside(array, rank, limits.axis) for array in (limits.floor, limits.threshold)
    )
    output = gs.Variable(name, value.dtype, value.shape)
    node = gs.Node(
        dialect.CLIP_ABOVE,
        name,
        domain=dialect.DOMAIN,
        inputs=[
            value,
            editing.constant(model, f"{name}/sign", np.array(sign, np.float32)),
            editing.constant(model, f"{name}/floor", floor),
            editing.constant(model, f"{name}/threshold", threshold),
        ],
        outputs=[output],
    )
    model.graph.nodes.append(node)
    return output


def _joined(model: Model, op: str, inputs: list[gs.Tensor], name: str) -> gs.Variable:
    fresh = editing.fresh_name(model, name)
    output = gs.Variable(fresh, inputs[0].dtype, inputs[0].shape)
    model.graph.nodes.append(gs.Node(op, fresh, inputs=inputs, outputs=[output]))
    return output
