"""Time flow: a type inference over the graph that decides where the time axis lives.

The passes of stage 4 only consume its result; `inspect` prints it; what it cannot
type is refused. See `types` for the meaning of a type, `rules_*` for the operators.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import batch, dialect, editing
from graphpass.model import Model
from graphpass.regions import Region
from graphpass.timeflow import rules
from graphpass.timeflow.functions import functions_of_neurons
from graphpass.timeflow.places import find_place
from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType
from graphpass.timeflow.view import Verdict, View, find_rule, not_understood

__all__ = ["RefusedNode", "TimeFlow", "infer", "rules"]

_NOT_LINEAR = Refusal(
    "is not linear, and reads spikes on the way to another neuron",
    "keep the activations before it (--keep), or remove it",
)
_BODY = Refusal("has a body that reads spikes", "keep the activations before it (--keep)")


@dataclass(frozen=True)
class RefusedNode:
    """A node that cannot be placed in time."""

    node: gs.Node
    refusal: Refusal

    def __str__(self) -> str:
        """Node, reason and remedy in one line."""
        return f"{editing.describe(self.node)} {self.refusal.reason}; {self.refusal.remedy}"


@dataclass
class TimeFlow:
    """Result of the inference.

    Attributes:
        types: time type of every tensor, by name.
        shapes: shape of every tensor when it was typed, without the time axis; an empty
            list where the rank is not known.
        refused: nodes that cannot be placed in time, in topological order.
        islands: nodes that compute on rates on the way to another neuron, and why they
            cannot in time; empty unless allowed.
        averaged: tensors whose mean over time is read, and by which nodes; graph
            outputs among them are averaged for the caller too.
        islands: nodes that compute on rates between neurons, and why they cannot in time.
        repeated: static tensors that must be repeated in time, and for which nodes.
    """

    types: dict[str, TimeType] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    refused: list[RefusedNode] = field(default_factory=list)
    islands: list[RefusedNode] = field(default_factory=list)
    averaged: dict[str, list[gs.Node]] = field(default_factory=dict)
    repeated: dict[str, list[gs.Node]] = field(default_factory=dict)


def infer(
    model: Model,
    neurons: Collection[str],
    pairs: Collection[str] = (),
    *,
    islands: bool = False,
) -> TimeFlow:
    """Type every tensor of a graph whose shapes have been inferred.

    Args:
        model: any stage; the graph is read, not changed.
        neurons: names of the tensors that the spiking activations write.
        pairs: those that will be a difference of two trains.
        islands: whether what cannot compute in time may compute on rates between
            neurons: it reads the mean over time, and what it gives is static.
    """
    names = frozenset(neurons)
    firing = {id(n) for n in model.graph.nodes if n.outputs and n.outputs[0].name in names}
    return _Inference(model, firing, frozenset(pairs), islands).run()


class _Inference:
    """One walk over the graph in topological order."""

    def __init__(self, model: Model, neurons: Set[int], pairs: Set[str], islands: bool) -> None:
        self._model = model
        self._islands = islands
        self._neurons = neurons
        self._pairs = pairs
        self._functions = functions_of_neurons(model, neurons)
        self._ahead = _nodes_before_neurons(model, neurons)
        self._symbol = batch.symbol_of(model.graph)
        self._flow = TimeFlow()

    def run(self) -> TimeFlow:
        types = self._flow.types
        for tensor in self._model.graph.inputs:
            types[tensor.name] = TimeType(Kind.STATIC, self._batch_axis(tensor))
        for node in self._model.graph.nodes:
            result = self._node(node)
            for output in node.outputs:
                types[output.name] = _fitting(result, output)
        for name, tensor in self._model.graph.tensors().items():
            self._flow.shapes[name] = list(tensor.shape or [])
        for output in self._model.graph.outputs:
            if (kind := types.get(output.name)) and kind.varies:
                self._flow.averaged.setdefault(output.name, [])
        return self._flow

    def _node(self, node: gs.Node) -> TimeType:
        inputs = tuple(self._type(t) for t in node.inputs)
        view = View(node, inputs, self._model.opset)
        captured = [self._type(t) for t in _captured(node)]
        if id(node) in self._neurons:
            return self._neuron(view)
        if (function := self._functions.inside.get(id(node))) is not None:
            return _current(self._type(function.source))
        if editing.is_dialect(node, dialect.REPEAT_IN_TIME):
            return replace(view.type(), kind=Kind.CURRENT)
        if editing.is_dialect(node, dialect.MEAN_OVER_TIME):
            return replace(view.type(), kind=Kind.RATE, poolable=False)
        if not view.varying and not any(t and t.varies for t in captured):
            rates = any(t and t.kind is Kind.RATE for t in (*inputs, *captured))
            return self._same_at_every_step(view, Kind.RATE if rates else Kind.STATIC)
        return self._varying(view, captured)

    def _type(self, tensor: gs.Tensor) -> TimeType | None:
        if tensor.is_empty():
            return None
        return self._flow.types.get(tensor.name, TimeType(Kind.STATIC))

    def _neuron(self, view: View) -> TimeType:
        node = view.node
        function = self._functions.ending.get(id(node))
        unbounded = function is not None and not editing.is_dialect(node, *dialect.NEURONS)
        read = function.source if function is not None and unbounded else node.inputs[0]
        kind, along = self._with_batch(read), _threshold_axes(node, function)
        if (refusal := _unfit(read, kind, along)) is not None:
            # A function's own nodes are typed as part of its neuron: the plan lets it go.
            island = self._islands and not unbounded
            return self._island(view, refusal) if island else self._refuse(view, refusal)
        channel_axis = along[0] if along else kind.channel_axis
        spikes = replace(
            kind, kind=Kind.SPIKES, poolable=True, channel_axis=channel_axis, pair=False
        )
        if not unbounded:
            return spikes
        # A baseline will be added, and a second train where the function turns.
        alone = node.outputs[0].name not in self._pairs
        return replace(spikes, kind=Kind.CURRENT, poolable=alone, pair=not alone)

    def _with_batch(self, current: gs.Tensor) -> TimeType:
        """In a network for one sample of fixed size, axis 0 is as good a place for time as any."""
        kind, shape = self._type(current) or TimeType(Kind.STATIC), current.shape
        literal = self._symbol is None and shape and isinstance(shape[0], int)
        if kind.batch_axis is not None or kind.varies or not literal:
            return kind
        channel_axis = kind.channel_axis or None  # not the axis that time gets
        kind = replace(kind, batch_axis=0, inner=shape[0], channel_axis=channel_axis)
        self._flow.types[current.name] = kind
        return kind

    def _same_at_every_step(self, view: View, kind: Kind) -> TimeType:
        """No input varies: any deterministic operator; a rule helps to follow the axes."""
        result = where_batch_goes(view)
        if isinstance(result, TimeType):
            return replace(result, kind=kind, poolable=False)
        if isinstance(result, Refusal) and result.mixes:
            return TimeType(kind)
        return self._by_shape(view.node, kind)

    def _batch_axis(self, tensor: gs.Tensor) -> int | None:
        """Of an input: where the name of the batch is, and else axis 0 if its size is free."""
        shape = tensor.shape or []
        if self._symbol in shape:
            return shape.index(self._symbol)
        free = shape and (self._symbol is None or not isinstance(shape[0], int))
        return 0 if free else None

    def _by_shape(self, node: gs.Node, kind: Kind) -> TimeType:
        """Without a rule: the batch is where the shape says the batch symbol is."""
        shape = (node.outputs[0].shape if node.outputs else None) or []
        for axis, size in enumerate(shape):
            if inner := batch.multiple(size, self._symbol):
                return TimeType(kind, axis, inner=inner)
        return TimeType(kind, 0 if shape and not isinstance(shape[0], int) else None)

    def _varying(self, view: View, captured: list[TimeType | None]) -> TimeType:
        node, tail = view.node, id(view.node) not in self._ahead
        rule = find_rule(node)
        result = _BODY if captured else _NOT_LINEAR if rule is None else rule(view)
        rates = any(t is not None and t.kind is Kind.RATE for t in view.types)
        if tail and (rates or isinstance(result, Refusal)):
            return self._same_at_every_step(self._average(view, Kind.RATE), Kind.RATE)
        if isinstance(result, Refusal):
            return self._island(view, result) if self._islands else self._refuse(view, result)
        for index, kind in enumerate(view.types):
            if kind is not None and not kind.varies and kind.batch_axis is not None:
                readers = self._flow.repeated.setdefault(node.inputs[index].name, [])
                readers.append(node)
        return result

    def _island(self, view: View, reason: Refusal) -> TimeType:
        self._flow.islands.append(RefusedNode(view.node, reason))
        return self._same_at_every_step(self._average(view, Kind.STATIC), Kind.STATIC)

    def _average(self, view: View, kind: Kind) -> View:
        """The node as it reads the mean over time of all that varies."""
        types = [
            replace(t, kind=kind, poolable=False) if t is not None and t.varies else t
            for t in view.types
        ]
        varying = [view.node.inputs[index] for index in view.varying]
        varying += [t for t in _captured(view.node) if (c := self._type(t)) and c.varies]
        for tensor in varying:
            readers = self._flow.averaged.setdefault(tensor.name, [])
            if not any(view.node is reader for reader in readers):
                readers.append(view.node)
        return View(view.node, tuple(types), view.opset)

    def _refuse(self, view: View, refusal: Refusal) -> TimeType:
        self._flow.refused.append(RefusedNode(view.node, refusal))
        # Go on as if the node were static, so that one cause gives one refusal.
        return self._by_shape(view.node, Kind.STATIC)


def where_batch_goes(view: View) -> Verdict | None:
    """Type of a node's first output where nothing varies; None for operators without a rule."""
    rule = find_place(view.node) or find_rule(view.node)
    return rule(view) if rule and view.types and view.types[0] else None


def _fitting(kind: TimeType, output: gs.Tensor) -> TimeType:
    """Of one of several outputs: a number beside a batch (a scale, say) carries no batch."""
    if output.shape is None or kind.batch_axis is None or kind.batch_axis < len(output.shape):
        return kind
    return replace(kind, batch_axis=None, channel_axis=None, inner=1)


def _current(kind: TimeType | None) -> TimeType:
    """The type of what a neuron computes of its current for itself."""
    assert kind is not None, "a function has a source"
    return replace(kind, kind=Kind.CURRENT if kind.varies else kind.kind, poolable=False)


def _unfit(current: gs.Tensor, kind: TimeType, along: list[int]) -> Refusal | None:
    """Why no neuron can read a current, if so."""
    if current.shape is None:
        origin = _without_shape(current)
        which = f", since that of {editing.describe(origin)} is not known" if origin else ""
        return not_understood(f"reads a tensor of unknown rank{which}", "keep it (--keep)")
    if kind.batch_axis is None:
        return Refusal(
            "reads a tensor that does not carry the batch",
            "keep it (--keep), or export the model with a symbolic batch",
        )
    if current.dtype is not None and current.dtype != np.float32:
        return Refusal(f"computes in {np.dtype(current.dtype)}", "export the model in float32")
    if len(along) > 1 or (along and kind.channel_axis not in (along[0], None)):
        return Refusal(
            f"has thresholds along {along}, and channels along [{kind.channel_axis}]",
            "use one threshold, or one for each channel",
        )
    return None


def _without_shape(tensor: gs.Tensor) -> gs.Node | None:
    """The node where shapes stop being known, on a way from a tensor to the inputs."""
    node = None
    while tensor is not None and tensor.shape is None and tensor.inputs:
        (node,) = tensor.inputs
        tensor = next((t for t in node.inputs if not t.is_empty() and t.shape is None), None)
    return node


def _threshold_axes(node: gs.Node, function: Region | None) -> list[int]:
    """Axes of the input along which the threshold of a QCFS, or a function, differs."""
    if function is not None:
        return [] if function.axis is None else [function.axis]
    if not editing.is_dialect(node, dialect.QCFS):
        return []
    threshold, rank = np.asarray(editing.values(node.inputs[1])), len(node.inputs[0].shape or ())
    return [axis + rank - threshold.ndim for axis, n in enumerate(threshold.shape) if n > 1]


def _captured(node: gs.Node) -> list[gs.Tensor]:
    """Tensors of this graph that the bodies of a control-flow node read."""
    found = []
    for subgraph in node.subgraphs(recursive=True):
        inner = {id(output) for n in subgraph.nodes for output in n.outputs}
        inner |= {id(tensor) for tensor in subgraph.inputs}
        for reader in subgraph.nodes:
            found += [t for t in reader.inputs if id(t) not in inner and not t.is_empty()]
        found += [t for t in subgraph.outputs if id(t) not in inner]
    return [t for t in found if isinstance(t, gs.Variable)]


def _nodes_before_neurons(model: Model, neurons: Set[int]) -> set[int]:
    """Ids of the nodes from which a neuron can be reached, the neurons included."""
    ahead: set[int] = set()
    waiting = [node for node in model.graph.nodes if id(node) in neurons]
    while waiting:
        node = waiting.pop()
        if id(node) not in ahead:
            ahead.add(id(node))
            for tensor in [*node.inputs, *_captured(node)]:
                waiting += tensor.inputs
    return ahead


def keeps_samples_apart(model: Model, flow: TimeFlow) -> bool:
    """Is every node that the batch reaches known to give each sample the same as alone?

    And does every output have an axis for the batch alone?

    Args:
        model: any stage without spikes.
        flow: its types.
    """
    outputs = [flow.types[t.name] for t in model.graph.outputs if t.name in flow.types]
    if any(kind.batch_axis is None or kind.inner != 1 for kind in outputs):
        return False
    for node in model.graph.nodes:
        kinds = [flow.types.get(t.name) for t in node.inputs if not t.is_empty()]
        reached = any(kind and kind.batch_axis is not None for kind in kinds)
        captured = [flow.types.get(tensor.name) for tensor in _captured(node)]
        if any(kind and kind.batch_axis is not None for kind in captured):
            return False
        if not reached or editing.is_standard(node, "Shape", "Size"):
            continue
        types = tuple(
            None if t.is_empty() else flow.types.get(t.name, TimeType(Kind.STATIC))
            for t in node.inputs
        )
        verdict = where_batch_goes(View(node, types, model.opset))
        if not isinstance(verdict, TimeType) or verdict.batch_axis is None:
            return False
    return True
