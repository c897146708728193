"""How much work nodes are: multiply-accumulate operations of one sample."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from graphpass import batch, editing
from graphpass.model import Model
from graphpass.timeflow import Kind, Shape, TimeFlow


def multiply_accumulates(node: gs.Node, symbol: str | None) -> int | None:
    """Products that a layer sums up for one sample; 0 for operators that are no layers.

    Args:
        node: its tensors have shapes.
        symbol: name of the free batch size.

    Returns:
        None where a size is not known.
    """
    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    if not editing.is_standard(node, *layers):
        return 0
    left, right, out = (
        _sizes(tensor.shape, symbol) for tensor in (*node.inputs[:2], node.outputs[0])
    )
    if left is None or right is None or out is None or not left or not right:
        return None
    if node.op == "Conv":
        return math.prod(out) * math.prod(right[1:])
    if node.op == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    summed = left[0] if node.op == "Gemm" and node.attrs.get("transA", 0) else left[-1]
    return math.prod(out) * summed


def _sizes(shape: Shape | None, symbol: str | None) -> list[int] | None:
    """A shape for one sample."""
    if shape is None:
        return None
    sizes = [batch.multiple(s, symbol) or s for s in shape]
    return sizes if all(isinstance(size, int) for size in sizes) else None


def island_shares(model: Model, flow: TimeFlow) -> dict[int, float | None]:
    """The part of all work that is done on rates because of each island, by the node's id.

    An island answers for itself and for what follows it that varies in time no more. None
    where the work is not known.
    """
    symbol = batch.symbol_of(model.graph)
    owner: dict[str, int] = {}
    shares: dict[int, int | None] = {id(island.node): 0 for island in flow.islands}
    total: int | None = 0
    for node in model.graph.nodes:
        work = multiply_accumulates(node, symbol)
        total = None if total is None or work is None else total + work
        kinds = [flow.types[t.name].kind for t in node.outputs if t.name in flow.types]
        owners = [owner[t.name] for t in node.inputs if t.name in owner]
        island = id(node) if id(node) in shares else owners[0] if owners else None
        if island is None or (id(node) not in shares and Kind.STATIC not in kinds):
            continue
        so_far = shares[island]
        shares[island] = None if so_far is None or work is None else so_far + work
        owner.update({tensor.name: island for tensor in node.outputs})
    return {
        key: None if work is None or not total else work / total for key, work in shares.items()
    }
