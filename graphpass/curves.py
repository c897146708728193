"""What a scalar function looks like: where it turns, and where it crosses levels.

No function is known by name here. ONNX Runtime computes it, float32 for float32 as it will in
the network, and everything else is read off its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass.model import Model, to_proto
from graphpass.regions import Region
from graphpass_runtime.errors import ModelError
from graphpass_runtime.session import Session

Array = NDArray[np.float32]
Function = Callable[[Array], Array]  # currents [G, C] -> values [G, C]

# Where a function is looked at: both signs of 2^-12 .. 2^60, 32 points for each doubling.
_GRID = np.exp2(np.arange(-12 * 32, 60 * 32 + 1) / 32).astype(np.float32)
# Where levels are looked for as well that are not reached there: weights may be of any size.
_FAR = np.concatenate([_GRID, np.exp2(np.arange(61.0, 117.0))]).astype(np.float32)
_LARGEST = np.finfo(np.float32).max
_LEAST_REACH = 16.0  # currents up to this size must have a value
# A function turns when it comes back by more than this share of what it spans up to there;
# less is the rounding of its own arithmetic.
_NOISE = 1e-5
_ROUNDING = 2.0**-20
_ZOOMS = 4
_FARTHEST_TURN = 2.0**14  # no current goes so far, and no value there drowns the others


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a function on which it does not turn.

    Attributes:
        sign: +1 where it does not decrease, -1 where it does not increase.
        low: float32 ``[C]``, where the part begins; None without an end.
        high: where it ends; None without an end.
    """

    sign: int
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True)
class Unfit:
    """Why a function is no sum of a few staircases."""

    reason: str


@dataclass(frozen=True)
class Curve:
    """A function that can be computed.

    Attributes:
        content: an ONNX file from z to y; the same bytes wherever the function stands.
        rank: rank of z.
        axis: the axis of z that functions differ along, None when they do not.
        channels: C, how many functions it is.
    """

    content: bytes
    rank: int
    axis: int | None
    channels: int

    @classmethod
    def of(cls, region: Region, opset: int) -> Curve:
        """The function of a region, in a version of the standard operators."""
        content = _content(region, opset)
        # The function of a single number is fed many of them like any other.
        return cls(content, max(1, len(region.source.shape)), region.axis, _channels(region))

    def __call__(self, currents: Array) -> Array:
        """Values for currents, both float32 ``[G, C]``."""
        shape = [1] * self.rank
        along = 1 if self.axis == 0 else 0
        fed = currents
        if self.axis is None:
            shape[along] = currents.size
        else:
            fed = currents if along < self.axis else currents.T
            shape[along], shape[self.axis] = currents.shape
        arranged = np.ascontiguousarray(fed, np.float32)
        found = _session(self.content).run({"z": arranged.reshape(shape)})["y"].reshape(fed.shape)
        return found if fed is currents else found.T

    def pieces(self) -> tuple[Piece, ...] | Unfit:
        """One piece for a function that never turns, two for one that turns once."""
        return _pieces(self)


def level_crossings(function: Function, channels: int, levels: int) -> Array:
    """The smallest current at which a non-decreasing function reaches 1, 2, ... levels.

    Found by bisection over all float32 numbers within reach, so that comparing a current
    with it gives what comparing the function of that current would.

    Args:
        function: currents [G, C] to values [G, C].
        channels: C.
        levels: T.

    Returns:
        float32 ``[T, C]``, rows in ascending order; infinite for levels that are never reached,
        or always.

    Raises:
        ModelError: the function has no finite value around zero.
    """
    wanted = np.arange(1, levels + 1, dtype=np.float32)[:, None]
    grid = _reach(function, channels)
    if not grid.size:
        raise ModelError(
            "an activation has no finite value in reach of its currents",
            remedy="check that weights are finite, and not very large",
        )
    found = _first_reached(function, grid, wanted, channels)
    if not (near := np.isfinite(found)).all():

        def bounded(currents: Array) -> Array:
            with np.errstate(over="ignore"):
                return np.clip(function(currents), -_LARGEST, _LARGEST)

        far = _reach(bounded, channels, _FAR)
        found = np.where(near, found, _first_reached(bounded, far, wanted, channels))
    # Rounding may let a flat function fall back by a step or two.
    crossings: Array = np.maximum.accumulate(found, axis=0)
    return crossings


def _first_reached(function: Function, grid: Array, wanted: Array, channels: int) -> Array:
    """The smallest current between the ends of the grid at which a value is reached, ``[T, C]``.

    Infinite where it is reached already at the lower end, or not yet at the upper one: a piece
    of a channel that never turns is constant up to a current beyond all others.
    """
    shape = (len(wanted), channels)
    low, high = (np.full(shape, _ordered(end)[0]) for end in (grid[:1], grid[-1:]))
    at_low, at_high = function(_columns(grid[[0, -1]], channels))
    while np.any(high - low > 1):
        middle = (low + high) // 2
        reached = function(_floats(middle)) >= wanted
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    found: Array = np.where(at_low >= wanted, np.float32(-np.inf), _floats(high))
    return np.where(at_high >= wanted, found, np.float32(np.inf))


@lru_cache(maxsize=64)
def _session(content: bytes) -> Session:
    return Session(content, provider="cpu", threads=1, spinning=False)


def _content(region: Region, opset: int) -> bytes:
    """The function as a file."""
    graph = gs.Graph(
        nodes=list(region.nodes), inputs=[region.source], outputs=[region.sink], opset=opset
    )
    proto = to_proto(Model(graph))
    proto.graph.name = "function"
    names = {region.source.name: "z", region.sink.name: "y"}
    for tensor in proto.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"c{len(names)}")
    for index, node in enumerate(proto.graph.node):
        node.name, node.doc_string = f"n{index}", ""
        del node.metadata_props[:]
        for group in (node.input, node.output):
            for place, name in enumerate(group):
                group[place] = names.setdefault(name, f"t{len(names)}") if name else ""
    del proto.graph.value_info[:]
    for value, name in ((proto.graph.input[0], "z"), (proto.graph.output[0], "y")):
        value.name = name
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _channels(region: Region) -> int:
    if region.axis is None:
        return 1
    constants = [t for n in region.nodes for t in n.inputs if isinstance(t, gs.Constant)]
    return max(int(size) for t in constants for size in t.shape)


@lru_cache(maxsize=64)
def _pieces(curve: Curve) -> tuple[Piece, ...] | Unfit:
    grid = _reach(curve, curve.channels)
    if not len(grid) or grid[-1] < _LEAST_REACH or grid[0] > -_LEAST_REACH:
        return Unfit(
            f"has no value for some currents between -{_LEAST_REACH:g} and {_LEAST_REACH:g}"
        )
    values = curve(_columns(grid, curve.channels)).astype(np.float64)
    slack = _slack(grid, values)
    for sign in (1, -1):
        if not _falls(sign * values, slack).any():
            return (Piece(sign),)
    for sign in (1, -1):  # a valley, a hill
        turn = _turn(curve, grid, sign * values, sign)
        left = np.minimum(grid[:, None], turn) == grid[:, None]
        rising = sign * values
        before, after = np.where(left, -rising, 0.0), np.where(left, rising.min(axis=0), rising)
        if not (_falls(before, slack) & left).any() and not (_falls(after, slack) & ~left).any():
            near = np.clip(turn, -_FARTHEST_TURN, _FARTHEST_TURN)
            return (Piece(-sign, None, near), Piece(sign, near, None))
    return Unfit("rises and falls more than once")


def _slack(grid: Array, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far back a function may go at each point without turning."""
    order = np.argsort(np.abs(grid), kind="stable")
    span = np.maximum.accumulate(values[order]) - np.minimum.accumulate(values[order])
    slack = np.empty_like(values)
    slack[order] = _NOISE * span
    # Where it is a difference from the current itself (Tanhshrink), it is as exact as that.
    near = np.minimum(np.abs(grid), np.float32(_LEAST_REACH))[:, None]
    return slack + _ROUNDING * (np.abs(values) + near)


def _falls(values: NDArray[np.float64], slack: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where values, in order of the currents, lie below an earlier one."""
    return np.maximum.accumulate(values, axis=0) - values > slack


def _turn(function: Function, grid: Array, values: NDArray[np.float64], sign: int) -> Array:
    """Where the function is least, ``[C]``; at an end of the grid when it never turns."""
    place = values.argmin(axis=0)
    low = grid[np.maximum(place - 1, 0)].astype(np.float64)
    high = grid[np.minimum(place + 1, len(grid) - 1)].astype(np.float64)
    best = grid[place]
    inside = (place > 0) & (place < len(grid) - 1)
    channels = np.arange(values.shape[1])
    for _ in range(_ZOOMS):
        points = np.linspace(low, high, 129).astype(np.float32)
        least = (sign * function(points)).argmin(axis=0)
        best = np.where(inside, points[least, channels], best)
        low = points[np.maximum(least - 1, 0), channels].astype(np.float64)
        high = points[np.minimum(least + 1, 128), channels].astype(np.float64)
    least_at: Array = best.astype(np.float32)
    return least_at


def _reach(function: Function, channels: int, sizes: Array = _GRID) -> Array:
    """The currents of these sizes around 0 for which every channel has a finite value."""
    grid = np.concatenate([-sizes[::-1], np.zeros(1, np.float32), sizes])
    with np.errstate(all="ignore"):
        finite = np.isfinite(function(_columns(grid, channels))).all(axis=1)
    middle = len(sizes)
    gaps = np.flatnonzero(~finite)
    first = gaps[gaps <= middle].max(initial=-1) + 1
    last = gaps[gaps >= middle].min(initial=len(grid)) - 1
    return grid[first : last + 1] if first <= last else grid[:0]


def _columns(numbers: Array, channels: int) -> Array:
    return np.repeat(numbers[:, None], channels, axis=1)


def _ordered(numbers: Array) -> NDArray[np.int64]:
    """Whole numbers in the order of the float32 numbers, one for each."""
    bits = numbers.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _floats(ordered: NDArray[np.int64]) -> Array:
    """Inverse of `_ordered`."""
    bits = np.where(ordered < 0, (-ordered) | 0x80000000, ordered)
    return bits.astype(np.uint32).view(np.float32)
