"""Constants become initializers, and nodes that do nothing go away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass_runtime.providers import import_onnxruntime

_LOOPS = ("Loop", "Scan")
_LARGEST_BYTES = 1 << 28  # a file of a few bytes may ask for a constant of any size


class FoldConstants(Pass):
    """Compute what depends on constants alone; drop Identity, Dropout and decided Ifs.

    Names of graph inputs and outputs are kept. Weights that several nodes share
    stay shared. Constants of more than 256 MiB are left to be computed at run time, and so
    are integer weights, which are smaller as they are.
    """

    def apply(self, model: Model) -> int:
        """Bypass first: an Identity may stand between a weight and its reader."""
        count = 0
        import_onnxruntime()  # silent from here on, in graphsurgeon's sessions too
        while True:
            count += sum(_try_bypass(model, node) for node in model.graph.nodes)
            before = len(model.graph.nodes)
            with _foreign_apart([*model.graph.nodes, *_inner(model)]):
                model.graph.fold_constants(
                    size_threshold=_LARGEST_BYTES,
                    should_exclude_node=_is_excluded,
                    flatten_subgraphs=False,  # it loses every second output of an If
                )
            editing.tidy(model)
            count += before - len(model.graph.nodes)
            inlined = sum(_try_inline(model, node) for node in list(model.graph.nodes))
            count += inlined
            if not inlined:
                return count


def _try_inline(model: Model, node: gs.Node) -> bool:
    """Put the branch of an If whose condition is constant in its place."""
    if not editing.is_standard(node, "If") or not isinstance(node.inputs[0], gs.Constant):
        return False
    taken = "then_branch" if bool(node.inputs[0].values.item()) else "else_branch"
    body = node.attrs.pop(taken)
    for other in node.subgraphs(recursive=True):
        _forget(other.nodes)
    outside = {id(tensor) for tensor in model.graph.tensors().values()}
    name = node.name or node.outputs[0].name
    inside = {
        id(tensor): tensor
        for inner in body.nodes
        for tensor in [*inner.inputs, *inner.outputs]
        if id(tensor) not in outside and not tensor.is_empty()
    }
    for tensor in inside.values():
        tensor.name = editing.fresh_name(model, f"{name}/{tensor.name}")
    outputs, results = list(node.outputs), list(body.outputs)
    position = model.graph.nodes.index(node)
    editing.detach(node)
    ends = [
        gs.Node("Identity", output.name, inputs=[result], outputs=[output])
        for output, result in zip(outputs, results, strict=True)
    ]
    model.graph.nodes[position : position + 1] = [*body.nodes, *ends]
    return True


def _try_bypass(model: Model, node: gs.Node) -> bool:
    """Connect the readers of an Identity or a Dropout in inference mode to its input."""
    if not editing.is_standard(node, "Identity", "Dropout"):
        return False
    if editing.present(node.inputs, 2) is not None:  # Dropout with a training_mode input
        return False
    source, output = node.inputs[0], node.outputs[0]
    if editing.present(node.outputs, 1) is not None:  # the mask of a Dropout is read
        return False
    named = any(source is tensor for tensor in [*model.graph.inputs, *model.graph.outputs])
    if editing.is_output(model, output) and (named or isinstance(source, gs.Constant)):
        return False  # both names are part of the interface
    editing.detach(node)
    editing.redirect(model, output, source)
    return True


def _forget(nodes: Iterable[gs.Node]) -> None:
    """A branch that is never taken would go on being a reader of the tensors it captured.

    By identity: graphsurgeon takes equal nodes, as both branches may hold, for one.
    """
    for node in nodes:
        for tensor in node.inputs:
            for index in reversed(range(len(tensor.outputs))):
                if tensor.outputs[index] is node:
                    list.pop(tensor.outputs, index)


def _inner(model: Model) -> list[gs.Node]:
    """The nodes of all subgraphs."""
    return [node for body in model.graph.subgraphs(recursive=True) for node in body.nodes]


@contextmanager
def _foreign_apart(nodes: Iterable[gs.Node]) -> Iterator[None]:
    """Graphsurgeon goes by the operator alone: a Shape of another domain is none."""
    foreign = [node for node in nodes if not editing.is_standard(node, node.op)]
    for node in foreign:
        node.op = f"{node.domain}::{node.op}"
    try:
        yield
    finally:
        for node in foreign:
            node.op = node.op.removeprefix(f"{node.domain}::")


def _is_excluded(node: gs.Node) -> bool:
    """Random numbers, loops without end, foreign operators, sequences, and integer weights."""
    random = str(node.op).startswith(("Random", "Bernoulli", "Multinomial"))
    bodies = node.subgraphs(recursive=True)
    looping = any(n.op in _LOOPS for n in [node, *(n for body in bodies for n in body.nodes)])
    foreign = not editing.is_standard(node, node.op)  # which ONNX Runtime may not know
    return random or looping or foreign or _makes_no_tensor(node) or _spells_weights(node)


def _makes_no_tensor(node: gs.Node) -> bool:
    """A sequence or an optional value cannot be an initializer."""
    if not onnx.defs.has(node.op):
        return False
    outputs = onnx.defs.get_schema(node.op).outputs
    return not all(any(kind.startswith("tensor(") for kind in made.types) for made in outputs)


def _spells_weights(node: gs.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if not isinstance(source, gs.Constant) or not editing.is_standard(node, "Cast"):
        return False
    return source.dtype in (np.int8, np.uint8) and len(source.shape) > 1
