"""Rules of operators that keep all elements, in another order or shape."""

from __future__ import annotations

import math
from dataclasses import replace

from graphpass.batch import PROBE
from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType
from graphpass.timeflow.view import MIXES, Verdict, View, moved, not_understood, rule

# Stand-ins for sizes that are not known, larger than any axis, when a Reshape is traced.
_PRIMES = (
    *(1_000_003, 1_000_033, 1_000_037, 1_000_039, 1_000_081, 1_000_099, 1_000_117, 1_000_121),
    *(1_000_133, 1_000_151, 1_000_159, 1_000_171, 1_000_183, 1_000_187, 1_000_193, 1_000_199),
)


@rule("Transpose")
def transpose(view: View) -> Verdict:
    """Permutes axes."""
    rank = view.rank()
    if rank is None:
        return not_understood("transposes a tensor of unknown rank")
    order = [int(axis) for axis in view.attr("perm", range(rank)[::-1])]
    return moved(view.type(), order.index)


@rule("Squeeze")
def squeeze(view: View) -> Verdict:
    """Drops axes of size 1."""
    rank, shape = view.rank(), view.shape()
    axes = None if rank is None else view.axes(1, rank)
    if rank is None or shape is None:
        return not_understood("squeezes a tensor of unknown rank")
    if view.hidden:
        return not_understood("squeezes axes that are not constant")
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if view.type().batch_axis in axes:
        return MIXES
    return moved(view.type(), [a for a in range(rank) if a not in axes].index)


@rule("Unsqueeze")
def unsqueeze(view: View) -> Verdict:
    """Inserts axes of size 1."""
    rank = view.rank()
    given = view.attr("axes")
    if given is None and (array := view.constant(1)) is not None:
        given = array.ravel().tolist()
    if rank is None or given is None:
        return not_understood("inserts axes that are not constant")
    full = rank + len(given)
    new = {int(axis) % full for axis in given}
    return moved(view.type(), [a for a in range(full) if a not in new].__getitem__)


@rule("Flatten")
def flatten(view: View) -> Verdict:
    """Two axes are left: those before `axis` and those from it on."""
    shape = view.shape()
    if shape is None:
        return not_understood("flattens a tensor of unknown rank")
    axis = int(view.attr("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    if axis == 1 and view.type().batch_axis == 0:
        return _reshaped(view.type(), shape, [0, -1])
    sizes = _sizes(shape, view.type())
    target = [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    result = _reshaped(view.type(), shape, target)
    if isinstance(result, Refusal):
        return Refusal("merges axes in front of the batch into it", "transpose the batch to axis 0")
    return result


@rule("Reshape")
def reshape(view: View) -> Verdict:
    """Keeps the order of elements; time stays with the batch if the batch stays in front."""
    shape, target = view.shape(), view.constant(1)
    if 1 in view.varying:
        return Refusal(
            "its target shape depends on a tensor that varies in time",
            "export the model with a constant target shape",
        )
    if shape is None or target is None:
        return not_understood("reshapes to a shape that is not constant")
    if view.attr("allowzero", 0) and 0 in target:
        return not_understood("reshapes to an empty tensor")
    return _reshaped(view.type(), shape, [int(size) for size in target.ravel()])


def _sizes(shape: Shape, kind: TimeType) -> list[int]:
    """The shape with a prime in place of the batch, and one for each unknown size."""
    primes = iter(_PRIMES)
    names: dict[str, int] = {}
    sizes = []
    for size in shape:
        if isinstance(size, str):
            sizes.append(names.setdefault(size, next(primes)))
        else:
            sizes.append(next(primes) if size is None else int(size))
    if kind.batch_axis is not None:
        sizes[kind.batch_axis] = PROBE * kind.inner
    return sizes


def _reshaped(kind: TimeType, shape: Shape, target: list[int]) -> Verdict:
    """Where the batch and the channels land.

    Row-major order is all that is used: an axis keeps its meaning when as many elements
    lie before it as did.
    """
    sizes = _sizes(shape, kind)
    result = [sizes[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in result:
        rest, total = -math.prod(result), math.prod(sizes)
        if rest <= 0 or total % rest:
            return _not_kept(target)
        result[result.index(-1)] = total // rest
    batch_axis, inner = None, 1
    if kind.batch_axis is not None:
        batch_axis = _same_place(sizes, kind.batch_axis, result)
        if batch_axis is None:
            return _not_kept(target)
        inner, rest = divmod(result[batch_axis], PROBE)
        if rest:
            return Refusal(
                f"its target {target} has a literal batch size or splits the batch",
                "write -1 or 0 for the batch in the target shape",
            )
    channel_axis = None
    if kind.channel_axis is not None:
        place = _same_place(sizes, kind.channel_axis, result)
        if place is not None and result[place] == sizes[kind.channel_axis]:
            channel_axis = place
    poolable = kind.poolable and (kind.channel_axis is None or channel_axis is not None)
    return replace(
        kind, batch_axis=batch_axis, channel_axis=channel_axis, poolable=poolable, inner=inner
    )


def _not_kept(target: list[int]) -> Refusal:
    return Refusal(
        f"its target {target} does not keep the batch in front of what it merges",
        "write -1 or 0 for the batch in the target shape",
    )


def _same_place(before: list[int], axis: int, after: list[int]) -> int | None:
    """The axis of `after` in front of which as many elements lie as before `axis`."""
    ahead = math.prod(before[:axis])
    count = 1
    for place, size in enumerate(after):
        if count == ahead and size != 1:
            return place
        count *= size
    return len(after) - 1 if count == ahead and after and after[-1] == 1 else None


@rule("DepthToSpace", "SpaceToDepth")
def shuffle_pixels(view: View) -> Verdict:
    """Pixels become channels or channels pixels, so that amplitudes get mixed."""
    source = view.type()
    if source.batch_axis not in (0, None):
        return Refusal("reads the batch from another axis than 0", "transpose before it")
    even = source.poolable and source.channel_axis is None
    kind = source.kind if even or not source.varies else Kind.CURRENT
    return replace(source, kind=kind, channel_axis=1, poolable=even)
