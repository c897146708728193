"""Scalar functions in a graph, however they are spelt.

A region is a set of element-wise operators between one tensor z that it reads and one
tensor y that it writes, with constants for all other operands: y = f_c(z), where f may
differ by channel (PRelu). HardSwish as Add-Clip-Mul-Div, GELU by Erf, LeakyRelu as
Max(x, a x) and Mish are all found by this one rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.activation import is_convertible
from graphpass.model import Model

# Element by element, and the same function of each element.
_UNARY = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu"
    " HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink"
    " Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu".split()
)
_JOINING = frozenset(
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mul Or PRelu Pow Sub"
    " Sum Where".split()
)


@dataclass(frozen=True)
class Region:
    """One scalar function.

    Attributes:
        source: z.
        sink: y, of the same shape.
        nodes: what computes y from z, in topological order.
        axis: the axis that constants vary along, None when all channels are alike.
    """

    source: gs.Tensor
    sink: gs.Tensor
    nodes: tuple[gs.Node, ...]
    axis: int | None

    @property
    def operators(self) -> str:
        """The operators that are no mere scaling, as a verdict names them."""
        return " ".join(dict.fromkeys(n.op for n in self.nodes if not passes_time(n)))

    def goes_through(self, node: gs.Node) -> bool:
        """Does everything between source and sink go through a node?"""
        reached = {id(self.source)}
        for other in self.nodes:
            if other is not node and any(id(t) in reached for t in other.inputs):
                reached.add(id(other.outputs[0]))
        return id(self.sink) not in reached


def find_regions(model: Model) -> dict[str, Region]:
    """All scalar functions that are more than sums, scalings and rectifiers, by sink name.

    Regions are as large as they can be, but for scalings at their ends, which any operator
    may follow in time, and for a last Relu or Clip(0, c) that everything goes through, which
    is an activation of its own. They may share nodes.

    Args:
        model: any stage, shapes inferred, in topological order.
    """
    order = {id(node): place for place, node in enumerate(model.graph.nodes)}
    apart: set[int] = set()
    while True:
        roots = _roots(model, apart)
        found = [_trimmed(_region(sink, roots, order)) for sink in _sinks(model, roots)]
        regions = [region for region in found if region is not None]
        last = {id(r.nodes[-1]) for r in regions if is_convertible(r.nodes[-1])}
        if not last:
            return {region.sink.name: region for region in regions}
        apart |= last


def region_up_to(regions: Mapping[str, Region], tensor: gs.Tensor) -> Region | None:
    """The scalar function that ends at a tensor, scalings at its end included.

    Args:
        regions: all of the graph.
        tensor: what the function writes.
    """
    behind: list[gs.Node] = []
    sink = tensor
    while sink.name not in regions:
        if len(sink.inputs) != 1 or not passes_time(sink.inputs[0]):
            return None
        behind.insert(0, sink.inputs[0])
        if len(operands := _operands(behind[0])) != 1:
            return None
        (sink,) = operands
    region = regions[sink.name]
    nodes = (*region.nodes, *behind)
    axes = _axes(nodes, len(region.source.shape))
    return Region(region.source, tensor, nodes, axes.pop() if axes else None)


def nodes_of_functions(model: Model) -> set[int]:
    """Ids of the nodes of all scalar functions, with the scalings that lead on to neurons."""
    regions = find_regions(model)
    found = list(regions.values())
    for node in model.graph.nodes:
        if editing.is_dialect(node, *dialect.SPIKING):
            region = region_up_to(regions, node.inputs[0])
            found += [] if region is None else [region]
    return {id(node) for region in found for node in region.nodes}


def passes_time(node: gs.Node) -> bool:
    """Does it sum or scale, so that it may be applied at every time-step?"""
    if editing.is_standard(node, "Add", "Sub", "Sum", "Mean", "Neg", "Identity"):
        return True
    if editing.is_standard(node, "Cast"):
        return all(_is_float(tensor) for tensor in [*node.inputs, *node.outputs])
    if editing.is_standard(node, "Mul", "Div"):
        varying = [i for i, t in enumerate(node.inputs) if not isinstance(t, gs.Constant)]
        return len(varying) == 1 and (node.op == "Mul" or varying == [0])
    return False


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and bool(np.issubdtype(tensor.dtype, np.floating))


def _roots(model: Model, apart: set[int]) -> dict[int, gs.Tensor]:
    """Id of every tensor that is a scalar function of another -> that other tensor."""
    roots: dict[int, gs.Tensor] = {}
    for node in model.graph.nodes:
        if id(node) in apart or not _is_elementwise(node):
            continue
        read = {id(r): r for r in (roots.get(id(t), t) for t in _operands(node))}
        if len(read) == 1:
            (root,) = read.values()
            if root.shape is not None and root.dtype == np.float32:
                roots[id(node.outputs[0])] = root
    return roots


def _is_elementwise(node: gs.Node) -> bool:
    if not editing.is_standard(node, *_UNARY, *_JOINING):
        return False
    operands = _operands(node)
    if len(node.outputs) != 1 or not operands or any(t.shape is None for t in operands):
        return False
    shapes = [list(tensor.shape) for tensor in operands]
    if any(shape != shapes[0] for shape in shapes):
        return False
    constants = [t for t in node.inputs if isinstance(t, gs.Constant) and not t.is_empty()]
    return all(_is_per_channel(tensor, len(shapes[0])) for tensor in constants)


def _operands(node: gs.Node) -> list[gs.Tensor]:
    """The inputs that are not constant."""
    return [t for t in node.inputs if isinstance(t, gs.Variable) and not t.is_empty()]


def _is_per_channel(constant: gs.Constant, rank: int) -> bool:
    """Does it vary along one axis at most, and add none?"""
    shape = constant.shape
    return len(shape) <= rank and sum(size != 1 for size in shape) <= 1


def _axes(nodes: Iterable[gs.Node], rank: int) -> set[int]:
    """The axes that constants vary along."""
    shapes = [t.shape for n in nodes for t in n.inputs if isinstance(t, gs.Constant)]
    return {
        axis + rank - len(shape) for shape in shapes for axis, size in enumerate(shape) if size != 1
    }


def _sinks(model: Model, roots: Mapping[int, gs.Tensor]) -> list[gs.Tensor]:
    """Tensors inside of regions that something outside of them reads."""
    outputs = {id(tensor) for tensor in model.graph.outputs}
    written = (t for n in model.graph.nodes for t in n.outputs if id(t) in roots)
    return [t for t in written if id(t) in outputs or _is_read_outside(t, roots)]


def _is_read_outside(tensor: gs.Tensor, roots: Mapping[int, gs.Tensor]) -> bool:
    """Does a node read it that computes no scalar function of the same root?"""
    results = [node.outputs[0] if node.outputs else None for node in tensor.outputs]
    return any(
        result is None or roots.get(id(result)) is not roots[id(tensor)] for result in results
    )


def _region(sink: gs.Tensor, roots: Mapping[int, gs.Tensor], order: Mapping[int, int]) -> Region:
    """What lies between a sink and its root."""
    source = roots[id(sink)]
    inside: dict[int, gs.Node] = {}
    waiting = list(sink.inputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in inside:
            inside[id(node)] = node
            waiting += [n for t in _operands(node) if t is not source for n in t.inputs]
    nodes = sorted(inside.values(), key=lambda node: order[id(node)])
    return Region(source, sink, tuple(nodes), None)


def _trimmed(region: Region) -> Region | None:
    """Without scalings at either end; None when nothing else is left."""
    source, sink, nodes = region.source, region.sink, list(region.nodes)
    while nodes and passes_time(nodes[-1]) and len(_operands(nodes[-1])) == 1:
        (sink,) = _operands(nodes.pop())
    while nodes and passes_time(nodes[0]) and sum(source in n.inputs for n in nodes) == 1:
        source = nodes.pop(0).outputs[0]
    if all(passes_time(node) or is_convertible(node) for node in nodes):
        return None
    rank = len(source.shape)
    axes = _axes(nodes, rank)
    if sink.dtype != np.float32 or len(axes) > 1:
        return None
    return Region(source, sink, tuple(nodes), axes.pop() if axes else None)
