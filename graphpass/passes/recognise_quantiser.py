"""QuantizeLinear and DequantizeLinear of an already quantised network become neurons.

A pair rounds to a grid: y = s n with n = Clip(Round(x / s), low, high), where low and high are
the ends of the integer type less the zero point. Ties go to the even n.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing, weights
from graphpass.activation import bounds, is_convertible
from graphpass.model import Model
from graphpass.neurons import Ties, qcfs
from graphpass.passes.base import Pass
from graphpass.regions import nodes_of_functions
from graphpass.verdicts import Activation

#: How the names of neurons end that stand for rounded currents.
RAISED = "/raised"

#: Operators that move or compare values: what they write lies on the grid of what they read.
_KEEPING = (
    "Concat DepthToSpace Expand Flatten Gather GlobalMaxPool Identity MaxPool Pad Relu Reshape"
    " Slice SpaceToDepth Split Squeeze Transpose Unsqueeze"
).split()

_COMPARING = ("GlobalMaxPool", "Identity", "MaxPool", "Relu")


@dataclass(frozen=True, eq=False)
class _Grid:
    """The values step * n for the whole numbers n from low to high.

    Attributes:
        step: float32, a scalar, or one for each channel, in a shape that broadcasts.
        low: at most 0 where it is a neuron's.
        high: above 0 there.
    """

    step: NDArray[np.float32]
    low: int
    high: int

    def within(self, other: _Grid) -> bool:
        """Are all of its values on the other grid?"""
        same = np.array_equal(self.step, other.step)
        return same and self.low >= other.low and self.high <= other.high

    def cut(self, low: float, high: float) -> _Grid | None:
        """The grid of what was kept within an interval before it was rounded.

        None where channels differ in what is left of them.
        """
        with np.errstate(over="ignore"):
            ends = np.rint(np.stack([np.float32(end) / self.step for end in (low, high)]))
        first, last = np.clip(ends, self.low, self.high).reshape(2, -1)
        if np.ptp(first) or np.ptp(last):
            return None
        return replace(self, low=int(first[0]), high=int(last[0]))


@dataclass(frozen=True, eq=False)
class _Pair:
    """A quantiser: what it reads, its nodes, what its readers read, and its grid."""

    source: gs.Tensor
    nodes: tuple[gs.Node, ...]
    outputs: tuple[gs.Tensor, ...]
    grid: _Grid

    @property
    def levels(self) -> int:
        """Steps from the lowest number of the grid to the highest."""
        return self.grid.high - self.grid.low


class RecogniseQuantiser(Pass):
    """Replace pairs of QuantizeLinear and DequantizeLinear with the same levels everywhere.

    One step for the whole tensor, or one for each channel, with one zero point.

    - A grid that starts at 0 clamps there, Relu or not: `graphpass::QCFSHalfEven` with T = high.
      A Relu or Clip before it, or a Relu behind it, is taken in.
    - A pair that reads values on its own grid already (behind a MaxPool, say) goes away.
    - A grid that reaches below 0 rounds a current. Between two activations it becomes a
      neuron of the raised current x - low s, which is never below 0, and its output is
      lowered again. Raising by an odd number of steps would take ties to the odd side: the
      current is turned over then, high s - x.

    A pair that rounds the input of the network stays, and so does a current's where nothing
    spikes before it or behind it.
    """

    def __init__(self, rounded_currents: str = "spike", steps: int | None = None) -> None:
        """Say what becomes of rounded currents between two activations.

        Args:
            rounded_currents: ``spike``, or ``drop``: they are not rounded any more, and the
                record says which. Not the same network, but closer to it than a current of
                few levels. ``auto``: they spike if T is enough for the levels of all.
            steps: T, None if it is not known yet; then ``auto`` takes it for small.
        """
        self._rounded_currents, self._steps = rounded_currents, steps or 0

    def apply(self, model: Model) -> int:
        """Activations first: which currents lie between two of them is known then."""
        if model.opset < dialect.OLDEST_HALF_EVEN:
            return 0
        count, pairs = 0, list[_Pair]()
        for node in [n for n in model.graph.nodes if editing.is_standard(n, "QuantizeLinear")]:
            if (pair := _read(model, node)) is None:
                continue
            known = _grid_of(pair.source, pairs)
            pairs.append(pair)
            if known is not None and known.within(pair.grid):
                count += _try_drop(model, pair)
            elif pair.grid.low == 0 and editing.is_behind(pair.source, _is_layer):
                _replace(model, pair, _activation)
                count += 1
        functions = nodes_of_functions(model)

        def activates(node: gs.Node) -> bool:
            return is_convertible(node) or id(node) in functions

        between = [p for p in pairs if p.grid.low < 0 and _is_between(p, activates)]
        treat = _try_drop_current if self._drops(between) else _try_raise
        return count + sum(treat(model, pair) for pair in between)

    def _drops(self, between: Iterable[_Pair]) -> bool:
        if self._rounded_currents != "auto":
            return self._rounded_currents == "drop"
        return any(pair.levels > self._steps for pair in between)


def _read(model: Model, quantise: gs.Node) -> _Pair | None:
    """The pair that a QuantizeLinear starts."""
    grid, tensor, nodes = _grid(quantise), quantise.outputs[0], [quantise]
    if grid is None:
        return None
    clip = editing.single_consumer(model, tensor)
    if clip is not None and editing.is_standard(clip, "Clip"):
        if (cut := _cut(grid, clip, _zero_point(quantise))) is None:
            return None
        grid, tensor = cut, clip.outputs[0]
        nodes.append(clip)
    readers = list(tensor.outputs)
    if editing.is_output(model, tensor) or not all(_undoes(r, quantise) for r in readers):
        return None
    outputs = [reader.outputs[0] for reader in readers]
    if not outputs or (len(outputs) > 1 and any(editing.is_output(model, o) for o in outputs)):
        return None
    source = quantise.inputs[0]
    while len(source.inputs) == 1 and (interval := bounds(source.inputs[0])) is not None:
        read = [t for t in source.inputs[0].inputs if not isinstance(t, gs.Constant)]
        if len(read) != 1 or np.isnan(interval).any():
            break
        if (bounded := grid.cut(*interval)) is None:
            break
        grid, source = bounded, read[0]
    relu = editing.single_consumer(model, outputs[0]) if len(outputs) == 1 else None
    if relu is not None and editing.is_standard(relu, "Relu"):
        grid, outputs = replace(grid, low=max(grid.low, 0)), [relu.outputs[0]]
        readers.append(relu)
    if not grid.low <= 0 < grid.high:
        return None
    return _Pair(source, (*nodes, *readers), tuple(outputs), grid)


def _cut(grid: _Grid, clip: gs.Node, zero: int) -> _Grid | None:
    """The grid between the bounds of a Clip of integers, which may be left out."""
    ends = []
    for index, end in ((1, grid.low), (2, grid.high)):
        bound = editing.present(clip.inputs, index)
        value = end + zero if bound is None else editing.scalar(bound)
        if value is None:
            return None
        ends.append(int(np.clip(value - zero, grid.low, grid.high)))
    return replace(grid, low=ends[0], high=ends[1])


def _grid(node: gs.Node) -> _Grid | None:
    """Of a QuantizeLinear or DequantizeLinear; None when it has several, or no integers."""
    step, zero = _step(node), editing.present(node.inputs, 2)
    if step is None or not (step > 0).all() or not np.isfinite(step).all():
        return None
    if zero is None and node.attrs.get("output_dtype"):
        return None
    middles = np.zeros((), np.uint8) if zero is None else editing.values(zero)
    if middles is None or not middles.size or (middles != middles.flat[0]).any():
        return None
    if (found := re.fullmatch(r"(u?)int(\d+)", str(middles.dtype))) is None:
        return None
    span, middle = 2 ** int(found[2]), int(middles.flat[0])
    lowest = 0 if found[1] else -span // 2
    return _Grid(step, lowest - middle, lowest + span - 1 - middle)


def _step(node: gs.Node) -> NDArray[np.float32] | None:
    """One number, or one for each channel beside the tensor; None for anything else."""
    step, shape = editing.values(node.inputs[1]), node.inputs[0].shape
    if step is None or step.dtype != np.float32 or not step.size or node.attrs.get("block_size"):
        return None
    if step.size == 1:
        return step.reshape(())
    axis = int(node.attrs.get("axis", 1))
    if shape is None or step.ndim != 1 or not -len(shape) <= axis < len(shape):
        return None
    return step.reshape(-1, *[1] * (len(shape) - 1 - axis % len(shape)))


def _zero_point(node: gs.Node) -> int:
    zero = editing.values(editing.present(node.inputs, 2))
    return 0 if zero is None else int(zero.flat[0])


def _undoes(node: gs.Node, quantise: gs.Node) -> bool:
    """Is it the DequantizeLinear of the same grid?"""
    if not editing.is_standard(node, "DequantizeLinear"):
        return False
    own, grid = _grid(node), _grid(quantise)
    return own is not None and grid is not None and own.within(grid) and grid.within(own)


def _grid_of(tensor: gs.Tensor, pairs: list[_Pair]) -> _Grid | None:
    """The grid that a tensor's values lie on, through operators that keep them there."""
    for pair in pairs:
        if any(tensor is output for output in pair.outputs):
            return pair.grid
    if len(tensor.inputs) != 1 or not editing.is_standard(tensor.inputs[0], *_KEEPING):
        return None
    node = tensor.inputs[0]
    read = node.inputs if node.op == "Concat" else node.inputs[:1]
    found = [_grid_of(source, pairs) for source in read]
    known = [grid for grid in found if grid is not None]
    if len(known) != len(found) or not all(_same_step(grid, known[0]) for grid in known):
        return None
    if known[0].step.ndim and not editing.is_standard(node, *_COMPARING):
        return None  # channels may lie elsewhere now
    low, high = min(grid.low for grid in known), max(grid.high for grid in known)
    if node.op == "Pad":
        value = editing.present(node.inputs, 2)
        if node.attrs.get("value") or (value is not None and editing.scalar(value) != 0.0):
            return None
        low = min(low, 0)
    return _Grid(known[0].step, max(low, 0) if node.op == "Relu" else low, high)


def _same_step(one: _Grid, other: _Grid) -> bool:
    return np.array_equal(one.step, other.step)


def _is_layer(node: gs.Node) -> bool:
    return editing.is_standard(node, *weights.LAYERS)


def _try_drop(model: Model, pair: _Pair) -> bool:
    """Let its readers read what it reads."""
    ends = [*model.graph.inputs, *model.graph.outputs]
    if any(pair.source is tensor for tensor in ends) and editing.is_output(model, pair.outputs[0]):
        return False  # both names are part of the interface
    for node in pair.nodes:
        editing.detach(node)
    for output in pair.outputs:
        editing.redirect(model, output, pair.source)
    return True


def _replace(model: Model, pair: _Pair, make: Callable[[Model, _Pair, gs.Tensor], None]) -> None:
    """Put other nodes in its place."""
    output, *others = pair.outputs
    for node in pair.nodes:
        editing.detach(node)
    for other in others:
        editing.redirect(model, other, output)
    make(model, pair, output)


def _activation(model: Model, pair: _Pair, output: gs.Tensor) -> None:
    theta, levels = pair.grid.step * np.float32(pair.grid.high), pair.grid.high
    node = qcfs.node(model, pair.source, output, np.asarray(theta), levels, Ties.HALF_EVEN)
    model.graph.nodes.append(node)


def _is_between(pair: _Pair, activates: Callable[[gs.Node], bool]) -> bool:
    """Does a current lie between two activations?"""
    behind = editing.is_behind(pair.source, activates)
    return behind and any(editing.is_ahead(output, activates) for output in pair.outputs)


def _try_drop_current(model: Model, pair: _Pair) -> bool:
    name = pair.outputs[0].name
    if not _try_drop(model, pair):
        return False
    reason = "rounds a current, which is closer unrounded at fewer time-steps (--rounded-currents)"
    verdict = Activation(name, f"quantiser ({pair.levels} levels)", "dropped", reason)
    assert model.record is not None, "stage 0 has a record"
    model.note(activations=(*model.record.activations, verdict.to_json()))
    return True


def _try_raise(model: Model, pair: _Pair) -> bool:
    if pair.grid.low % 2 and pair.grid.high % 2:
        return False
    _replace(model, pair, _raised)
    return True


def _raised(model: Model, pair: _Pair, output: gs.Tensor) -> None:
    """Y = n(x + c) - c, or y = c - n(c - x)."""
    grid, name, source = pair.grid, output.name, pair.source
    turned = grid.low % 2 != 0
    distance = np.asarray(grid.step * np.float32(grid.high if turned else -grid.low))
    by = editing.constant(model, f"{name}/distance", distance)
    current = gs.Variable(
        editing.fresh_name(model, f"{name}/above_zero"), source.dtype, source.shape
    )
    raised = gs.Variable(editing.fresh_name(model, f"{name}{RAISED}"), source.dtype, source.shape)
    theta = np.asarray(grid.step * np.float32(pair.levels))
    up = ("Sub", [by, source]) if turned else ("Add", [source, by])
    down = [by, raised] if turned else [raised, by]
    model.graph.nodes += [
        gs.Node(up[0], f"{name}/raise", inputs=up[1], outputs=[current]),
        qcfs.node(model, current, raised, theta, pair.levels, Ties.HALF_EVEN),
        gs.Node("Sub", f"{name}/lower", inputs=down, outputs=[output]),
    ]
