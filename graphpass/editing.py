"""Questions and edits on the graph that several passes share."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect

if TYPE_CHECKING:
    from graphpass.model import Model

#: Operators, with what each reads besides what the one before it gives.
Steps = list[tuple[str, list[gs.Tensor]]]

_FLOAT = 1  # onnx.TensorProto.FLOAT


def is_standard(node: gs.Node, *ops: str) -> bool:
    """Is it one of these operators of the standard ONNX domain?"""
    return node.op in ops and node.domain in (None, "", "ai.onnx")


def is_dialect(node: gs.Node, *ops: str) -> bool:
    """Is it one of these functions of the graphpass domain, whatever it does at ties?"""
    return node.domain == dialect.DOMAIN and dialect.family(node.op) in ops


def describe(node: gs.Node) -> str:
    """How an error names a node: operator and, since names may be empty, first output."""
    output = node.outputs[0].name if node.outputs else "?"
    return f"{node.op} node '{node.name or output}'"


def present(tensors: list[gs.Tensor], index: int) -> gs.Tensor | None:
    """The optional input or output at `index`; None when it is left out."""
    if index >= len(tensors) or tensors[index].is_empty():
        return None
    return tensors[index]


def values(tensor: gs.Tensor | None) -> NDArray[Any] | None:
    """The values of a constant tensor, or of integer weights; None for anything else."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    return None if tensor is None else _integer_weights(tensor)


def _integer_weights(tensor: gs.Tensor) -> NDArray[Any] | None:
    """Mul and Sub of a Cast of integers, as `passes/spell_integer_weights.py` writes weights."""
    node = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if node is None or not is_standard(node, "Cast", "Mul", "Sub"):
        return None
    source, *others = node.inputs
    if node.op == "Cast":
        floats = node.attrs.get("to") in (_FLOAT, np.float32)
        kept = floats and isinstance(source, gs.Constant)
        return np.asarray(source.values).astype(np.float32) if kept else None
    known, operand = _integer_weights(source), others[0]
    if known is None or not isinstance(operand, gs.Constant):
        return None
    by = np.asarray(operand.values)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so
        result: NDArray[Any] = known * by if node.op == "Mul" else known - by
    return result


def scalar(tensor: gs.Tensor | None) -> float | None:
    """The value of a constant that holds one number, whatever its rank; else None."""
    array = values(tensor)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def single_consumer(model: Model, tensor: gs.Tensor) -> gs.Node | None:
    """The only reader of a tensor; None when there are several, or it is an output."""
    if len(tensor.outputs) != 1 or is_output(model, tensor):
        return None
    node: gs.Node = tensor.outputs[0]
    return node


def is_output(model: Model, tensor: gs.Tensor) -> bool:
    """Is the tensor one of the graph's outputs?"""
    return any(tensor is output for output in model.graph.outputs)


def redirect(model: Model, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let everything that read `old` read `new`.

    A graph output keeps its name: there, `new` takes the name of `old`.
    """
    for node in list(old.outputs):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new
    for index, output in enumerate(model.graph.outputs):
        if output is old:
            name, dtype, shape = old.name, old.dtype, old.shape
            old.name = fresh_name(model, f"{name}/replaced")
            new.name, new.dtype, new.shape = name, dtype, shape
            model.graph.outputs[index] = new


def replace_input(node: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let a node, the bodies that it holds included, read `new` wherever it reads `old`."""
    node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
    for body in node.subgraphs(recursive=True):
        for inner in body.nodes:
            inner.inputs = [new if tensor is old else tensor for tensor in inner.inputs]
        body.outputs = [new if tensor is old else tensor for tensor in body.outputs]


def detach(node: gs.Node) -> None:
    """Take a node out of the data flow; the next cleanup removes it."""
    node.inputs.clear()
    node.outputs.clear()


def replace_by_chain(model: Model, node: gs.Node, steps: Steps) -> None:
    """Put operators one after the other in the place of a node; the first reads its input."""
    source, output = node.inputs[0], node.outputs[0]
    detach(node)
    for index, (op, operands) in enumerate(steps):
        last = index == len(steps) - 1
        name = fresh_name(model, f"{output.name}/{op.lower()}")
        result = output if last else gs.Variable(name)
        made = gs.Node(op, name, inputs=[source, *operands], outputs=[result])
        model.graph.nodes.append(made)
        source = result


def fresh_name(model: Model, base: str) -> str:
    """`base`, or `base` with a number, whichever no tensor has yet."""
    return _apart(base, model.graph.tensors())


def _apart(base: str, taken: Container[str]) -> str:
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name


def constant(model: Model, base: str, array: NDArray[Any]) -> gs.Constant:
    """A new initializer. Existing ones are never edited: they may be shared."""
    return constants(model, {base: array})[0]


def constants(model: Model, arrays: Mapping[str, NDArray[Any]]) -> list[gs.Constant]:
    """New initializers by the bases of their names: one way through the graph for all of them."""
    taken = model.graph.tensors()
    return [
        gs.Constant(_apart(base, taken), values=np.asarray(array, order="C"))
        for base, array in arrays.items()
    ]


def tidy(model: Model) -> None:
    """Remove what no output needs any more and restore topological order."""
    model.graph.cleanup(remove_unused_graph_inputs=False).toposort()


def is_behind(tensor: gs.Tensor, wanted: Callable[[gs.Node], bool]) -> bool:
    """Is there such a node among those that a tensor is computed by?"""
    return _finds(list(tensor.inputs), wanted, lambda node: node.inputs, lambda t: t.inputs)


def is_ahead(tensor: gs.Tensor, wanted: Callable[[gs.Node], bool]) -> bool:
    """Is there such a node among those that a tensor reaches?"""
    return _finds(list(tensor.outputs), wanted, lambda node: node.outputs, lambda t: t.outputs)


def _finds(
    waiting: list[gs.Node],
    wanted: Callable[[gs.Node], bool],
    tensors: Callable[[gs.Node], list[gs.Tensor]],
    nodes: Callable[[gs.Tensor], list[gs.Node]],
) -> bool:
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if wanted(node):
            return True
        if id(node) not in seen:
            seen.add(id(node))
            for tensor in tensors(node):
                waiting += nodes(tensor)
    return False
