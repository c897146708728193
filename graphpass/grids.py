"""Which tensors of a network of counts are held as uint8, and on which grid.

Counts are whole numbers already. Currents that are read by something else than a neuron
(residual sums, layers without an activation) are rounded to 256 levels of their range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.regions import nodes_of_functions

TOP = 255  # the largest uint8

#: Operators that move or compare elements, and do the same on uint8. (GlobalMaxPool would
#: too, but ONNX has it for floats alone.)
LAYOUT = (
    "Concat DepthToSpace Expand Flatten Identity MaxPool Pad Reshape Slice"
    " SpaceToDepth Split Squeeze Transpose Unsqueeze"
).split()
_AVERAGES = ("AveragePool", "GlobalAveragePool")


@dataclass(frozen=True)
class Span:
    """The smallest and the largest value that matters of a tensor."""

    low: float = -math.inf
    high: float = math.inf

    def within(self, other: Span) -> Span:
        """What both spans share; this one's end where they share nothing."""
        low = min(max(self.low, other.low), self.high)
        return Span(low, max(min(self.high, other.high), low))

    def joined(self, other: Span) -> Span:
        """The span of both."""
        return Span(min(self.low, other.low), max(self.high, other.high))

    @property
    def known(self) -> bool:
        """Is it finite?"""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Grid:
    """real = scale * (level - zero).

    Attributes:
        scale: step between levels.
        zero: the level of 0.
        top: the largest count; None for currents, which fill all 256 levels.
    """

    scale: float = 1.0
    zero: int = 0
    top: int | None = None

    @classmethod
    def over(cls, span: Span) -> Grid:
        """256 levels over a span, zero being one of them."""
        low, high = min(span.low, 0.0), max(span.high, 0.0)
        scale = float(np.float32((high - low) / TOP)) or 1.0
        return cls(scale, round(-low / scale))


@dataclass(frozen=True)
class Axes:
    """The number of a tensor's axes, and which one its channels lie on."""

    rank: int
    channels: int


@dataclass
class Grids:
    """What is held as uint8.

    Attributes:
        integer: ids of the nodes that compute on integers.
        spans: by id, what is known of each tensor that integers are read from.
        counts: by id, the largest count of the tensors of counts among them.
        held: tensors to hold as uint8, by id.
    """

    integer: set[int] = field(default_factory=set)
    spans: dict[int, Span] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    held: dict[int, gs.Tensor] = field(default_factory=dict)

    def grid(self, tensor: gs.Tensor) -> Grid:
        """The grid of a tensor that is held."""
        if id(tensor) in self.counts:
            return Grid(top=self.counts[id(tensor)])
        return Grid.over(self.spans[id(tensor)])

    @property
    def unknown(self) -> list[str]:
        """Names of the held tensors whose span is not known."""
        return [tensor.name for key, tensor in self.held.items() if not self.spans[key].known]


def find_grids(model: Model) -> Grids:
    """Decide what is integer in a network whose neurons are `NearestCount`.

    Args:
        model: the network, in topological order; its record has neurons, and the ranges of
            currents as far as they were recorded.
    """
    assert model.record is not None, "neurons live in the record"
    levels = {neuron.spikes: neuron.levels for neuron in model.record.neurons}
    measured = {name: Span(*ends) for name, ends in model.record.ranges.items()}
    grids, useful = Grids(), _useful_nodes(model)
    for node in model.graph.nodes:
        if editing.is_dialect(node, dialect.NEAREST_COUNT):
            counts = node.outputs[0]
            grids.counts[id(counts)] = levels[counts.name]
            grids.spans[id(counts)] = Span(0.0, float(levels[counts.name]))
        elif id(node) in useful:
            _place(node, grids, measured)
    for node in model.graph.nodes:
        if id(node) in grids.integer:
            _tighten(model, node, grids, levels)
            for tensor in _data(node):
                grids.held[id(tensor)] = tensor
    return grids


def measurable(model: Model) -> list[str]:
    """Names of the currents and analog tensors whose range could matter."""
    useful, found = _useful_nodes(model), {}
    grids = find_grids(model)
    for node in model.graph.nodes:
        if id(node) in useful and _may_be_integer(node):
            for tensor in _data(node):
                known = isinstance(tensor, gs.Constant) or id(tensor) in grids.counts
                if not known and tensor.dtype == np.float32:
                    found[tensor.name] = tensor
    return list(found)


def read_by_layers(model: Model) -> dict[str, Axes]:
    """The tensors that layers with integer weights may read."""
    useful, found = _useful_nodes(model), {}
    for node in model.graph.nodes:
        if id(node) in useful and is_integer_layer(node):
            source = node.inputs[0]
            if node.op == "Conv" or source.shape is None:
                rank = 4 if node.op == "Conv" else 2
            else:
                rank = len(source.shape)
            if source.dtype == np.float32:
                found[source.name] = Axes(rank, 1 if node.op == "Conv" else rank - 1)
    return found


def _may_be_integer(node: gs.Node) -> bool:
    return is_integer_layer(node) or editing.is_standard(node, *LAYOUT, *_AVERAGES, "Add")


def _place(node: gs.Node, grids: Grids, measured: Mapping[str, Span]) -> None:
    """Let a node compute on integers, if it can."""
    inputs = list(_data(node))
    if any(isinstance(tensor, gs.Constant) for tensor in inputs):
        return
    read = [tensor for tensor in inputs if id(tensor) in grids.spans]
    for tensor in inputs:  # analog: the input and what no neuron precedes
        if tensor.name in measured or (read and editing.is_standard(node, "Add")):
            grids.spans.setdefault(id(tensor), measured.get(tensor.name, Span()))
    if not inputs or any(id(tensor) not in grids.spans for tensor in inputs):
        return
    if editing.is_standard(node, "Relu", "Clip"):
        # It goes into the rounding of what it writes.
        grids.spans[id(node.outputs[0])] = measured.get(node.outputs[0].name, Span())
        return
    spans = [grids.spans[id(tensor)] for tensor in inputs]
    if editing.is_standard(node, *LAYOUT):
        counts = [grids.counts.get(id(tensor)) for tensor in inputs]
        tops = [top for top in counts if top is not None]
        if (tops and len(tops) < len(counts)) or (len(inputs) > 1 and not tops):
            return  # tensors on different grids cannot be joined
        span = spans[0]
        if tops:
            grids.counts.update((id(output), max(tops)) for output in node.outputs)
    elif editing.is_standard(node, *_AVERAGES):
        span = Span(min(spans[0].low, 0.0), max(spans[0].high, 0.0))
    elif editing.is_standard(node, "Add") and len(inputs) == 2:
        span = Span(spans[0].low + spans[1].low, spans[0].high + spans[1].high)
    elif is_integer_layer(node):
        span = _scaled(node, spans[0])
    else:
        return
    grids.integer.add(id(node))
    for output in node.outputs:
        grids.spans[id(output)] = span.within(measured.get(output.name, Span()))


def is_integer_layer(node: gs.Node) -> bool:
    """Is it a layer that ONNX Runtime has integer kernels for?"""
    if not editing.is_standard(node, "Conv", "Gemm", "MatMul"):
        return False
    weight = editing.values(node.inputs[1])
    bias = editing.present(node.inputs, 2)
    if weight is None or (bias is not None and editing.values(bias) is None):
        return False
    if node.op == "Conv":
        return weight.ndim == 4
    plain = not node.attrs.get("transA", 0) and node.attrs.get("alpha", 1.0) == 1.0
    return weight.ndim == 2 and plain


def _scaled(node: gs.Node, span: Span) -> Span:
    """Exact for a factor per channel; unknown for layers that add up many inputs."""
    weight = np.asarray(editing.values(node.inputs[1]), np.float64)
    if node.op != "Conv" or weight[0].size != 1 or not span.known:
        return Span()
    bias = editing.present(node.inputs, 2)
    summand = 0.0 if bias is None else np.asarray(editing.values(bias), np.float64)
    ends = [weight.ravel() * end + summand for end in (span.low, span.high)]
    return Span(float(np.min(ends)), float(np.max(ends)))


def _tighten(model: Model, node: gs.Node, grids: Grids, levels: Mapping[str, int]) -> None:
    """Cut the operands of a sum that only neurons read to what can change a count.

    A count stays 0 below 0 and T above T: what is so far off that the other operand
    cannot bring it back need not be told apart.
    """
    output = node.outputs[0]
    if not editing.is_standard(node, "Add") or not _only_neurons_read(model, output):
        return
    first, second = node.inputs
    most = max(levels[reader.outputs[0].name] for reader in output.outputs)
    for one, other in ((first, second), (second, first), (first, second)):
        if editing.single_consumer(model, one) is node and id(one) not in grids.counts:
            span = grids.spans[id(other)]
            matters = Span(-span.high - 1.0, most - span.low + 1.0)
            grids.spans[id(one)] = grids.spans[id(one)].within(matters)


def _only_neurons_read(model: Model, tensor: gs.Tensor) -> bool:
    readers = tensor.outputs
    alone = readers and not editing.is_output(model, tensor)
    return bool(alone) and all(editing.is_dialect(r, dialect.NEAREST_COUNT) for r in readers)


def _data(node: gs.Node) -> Iterator[gs.Tensor]:
    """Inputs that carry data: all but constants, in operators that treat inputs alike."""
    alike = editing.is_standard(node, "Add", "Concat")
    yield from node.inputs if alike else node.inputs[:1]


def _useful_nodes(model: Model) -> set[int]:
    """Nodes that a neuron or a Gemm hangs on; behind them nothing need be rounded.

    Scalar functions are left out: they are computed in float32.
    """
    useful: set[int] = set()
    waiting = [
        node
        for node in model.graph.nodes
        if editing.is_dialect(node, dialect.NEAREST_COUNT)
        or (editing.is_standard(node, "Gemm", "MatMul") and is_integer_layer(node))
    ]
    while waiting:
        node = waiting.pop()
        if id(node) not in useful:
            useful.add(id(node))
            for tensor in node.inputs:
                waiting += tensor.inputs
    return useful - nodes_of_functions(model)


def weight_limit(top: int | None) -> int:
    """The largest weight for counts 0..top, or for currents (None).

    CPUs without VNNI add two products in 16 bits, which must not saturate: 127 up to
    counts of 129, 64 (seven bits) for counts of 255. Currents keep 8 bits, since they seldom
    come near their ends and 7 bits cost accuracy; `graphpass_runtime` tells ONNX Runtime
    to take a slower, wider kernel on such CPUs.
    """
    return 127 if top is None else min(127, 32767 // (2 * top))
