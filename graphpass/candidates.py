"""Which nodes could become neurons: rectifiers, and scalar functions that feed layers."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphpass import editing, weights
from graphpass.activation import is_convertible
from graphpass.curves import Curve, Unfit
from graphpass.model import Model
from graphpass.regions import Region, find_regions
from graphpass.timeflow.view import find_rule

_ON_INTEGERS = ("ConvInteger", "MatMulInteger")  # as dynamic quantisation writes layers


@dataclass(frozen=True)
class Candidates:
    """What a plan chooses from.

    Attributes:
        nodes: the nodes that write what neurons would, in topological order.
        functions: those among them that end a scalar function, by id.
        pairs: ids of those whose function turns, which takes two trains.
        inside: ids of the nodes that such functions are made of.
        unfit: why a scalar function is none for neurons, by the ids of its nodes.
    """

    nodes: list[gs.Node]
    functions: dict[int, Region]
    pairs: frozenset[int]
    inside: frozenset[int]
    unfit: dict[int, str] = field(default_factory=dict)


def find_candidates(model: Model) -> Candidates:
    """Rectifiers and QCFS, and every scalar function that is an activation.

    That is one between layers. A function that has no layer before it belongs to the
    preprocessing. One whose values reach another only through products with what varies in
    time, roots or comparisons is a gate or a piece of a normalisation; one whose values reach
    none belongs to the outputs. These are left as they are.

    Args:
        model: stage 0.
    """
    return _Search(model).run()


class _Search:
    """One walk forwards and one backwards over the graph."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._regions = find_regions(model)
        self._of_node: dict[int, list[Region]] = {}
        for region in self._regions.values():
            for node in region.nodes:
                self._of_node.setdefault(id(node), []).append(region)
        self._behind_layer: set[int] = set()  # ids of tensors
        self._active: set[int] = set()  # ids of tensors that an activation precedes
        self._useful: set[int] = set()  # ids of nodes whose reading is one by a layer or neuron
        self._chosen: dict[str, int] = {}  # sink -> number of pieces
        self._unfit: dict[int, str] = {}

    def run(self) -> Candidates:
        for node in self._model.graph.nodes:
            self._look_back(node)
        for node in reversed(self._model.graph.nodes):
            self._look_ahead(node)
        regions = [region for name, region in self._regions.items() if name in self._chosen]
        functions = {id(region.nodes[-1]): region for region in regions}
        inside = {id(node) for region in regions for node in region.nodes} - functions.keys()
        nodes = [
            n
            for n in self._model.graph.nodes
            if id(n) in functions or (self._is_rectifier(n) and id(n) not in inside)
        ]
        pairs = {i for i, r in functions.items() if self._chosen[r.sink.name] > 1}
        return Candidates(nodes, functions, frozenset(pairs), frozenset(inside), self._unfit)

    def _look_back(self, node: gs.Node) -> None:
        outputs = {id(tensor) for tensor in node.outputs}
        read = {id(tensor) for tensor in node.inputs}
        if _is_layer(node) or read & self._behind_layer:
            self._behind_layer |= outputs
        if id(node) in self._of_node or is_convertible(node) or read & self._active:
            self._active |= outputs

    def _look_ahead(self, node: gs.Node) -> None:
        for region in self._of_node.get(id(node), ()):
            if region.nodes[-1] is node and self._is_read(region.sink):
                self._choose(region)
        of_neuron = any(r.sink.name in self._chosen for r in self._of_node.get(id(node), ()))
        passes = find_rule(node) is not None and not self._multiplies(node)
        if (
            _is_layer(node)
            or of_neuron
            or self._is_rectifier(node)
            or (passes and any(self._is_read(tensor) for tensor in node.outputs))
        ):
            self._useful.add(id(node))

    def _choose(self, region: Region) -> None:
        axis, shape = region.axis, region.source.shape
        known = axis is None or (len(shape) > 1 and isinstance(shape[axis], int))
        if known and id(region.source) in self._behind_layer:
            found = Curve.of(region, self._model.opset).pieces()
            if isinstance(found, Unfit):
                self._unfit.update({id(node): found.reason for node in region.nodes})
            else:
                self._chosen[region.sink.name] = len(found)

    def _is_read(self, tensor: gs.Tensor) -> bool:
        return any(id(reader) in self._useful for reader in tensor.outputs)

    def _is_rectifier(self, node: gs.Node) -> bool:
        """A Relu or Clip that other nodes make another function of is none."""
        regions = self._of_node.get(id(node), ())
        return is_convertible(node) and all(region.goes_through(node) for region in regions)

    def _multiplies(self, node: gs.Node) -> bool:
        """Does it join tensors that both vary in time otherwise than by a sum?"""
        varying = sum(id(tensor) in self._active for tensor in node.inputs)
        return varying > 1 and not editing.is_standard(node, "Add", "Sub", "Sum", "Concat")


def _is_layer(node: gs.Node) -> bool:
    """Has it weights?"""
    constants = [editing.values(tensor) is not None for tensor in node.inputs]
    return editing.is_standard(node, *weights.LAYERS, *_ON_INTEGERS) and any(constants[:2])
