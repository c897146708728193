"""How much work nodes are: multiply-accumulate operations of one sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_graphsurgeon as gs

from graphpass import batch, dialect, editing
from graphpass.model import Model
from graphpass.shape_inference import KEEP_SHAPE
from graphpass.timeflow import Kind, TimeFlow


def multiply_accumulates(node: gs.Node, symbol: str | None) -> int | None:
    """Products that a node sums up for one sample; 0 for operators that do nothing of the kind.

    Args:
        node: its tensors have shapes.
        symbol: name of the free batch size.

    Returns:
        None where a size is not known, or what an operator does: one with a body, or of
        another domain.
    """
    if any(True for _ in node.subgraphs()):
        return None
    standard = editing.is_standard(node, node.op)
    if not standard and node.domain == dialect.DOMAIN:
        return 0
    count = (_STANDARD if standard else _CONTRIBUTED).get(node.op)
    if count is None:
        return 0 if standard or node.op in KEEP_SHAPE else None
    return count(_Sizes(node, symbol))


class _Sizes:
    """The shapes of a node's tensors for one sample."""

    def __init__(self, node: gs.Node, symbol: str | None) -> None:
        self.node = node
        self._symbol = symbol

    def input(self, index: int) -> list[int] | None:
        """Of an input; None where it is absent, a scalar, or not known."""
        return self._of(editing.present(self.node.inputs, index))

    def output(self) -> list[int] | None:
        """Of the first output."""
        return self._of(self.node.outputs[0])

    def _of(self, tensor: gs.Tensor | None) -> list[int] | None:
        if tensor is None or not tensor.shape:
            return None
        sizes = [batch.multiple(s, self._symbol) or s for s in tensor.shape]
        return sizes if all(isinstance(size, int) for size in sizes) else None


_Count = Callable[[_Sizes], int | None]


def _convolution(weights: int) -> _Count:
    def count(sizes: _Sizes) -> int | None:
        out, weight = sizes.output(), sizes.input(weights)
        return None if out is None or weight is None else math.prod(out) * math.prod(weight[1:])

    return count


def _transposed(sizes: _Sizes) -> int | None:
    left, weight = sizes.input(0), sizes.input(1)
    return None if left is None or weight is None else math.prod(left) * math.prod(weight[1:])


def _product(sizes: _Sizes) -> int | None:
    left, out = sizes.input(0), sizes.output()
    if left is None:
        return None
    transposed = sizes.node.op == "Gemm" and sizes.node.attrs.get("transA", 0)
    summed = left[0] if transposed else left[-1]
    scalar = sizes.node.outputs[0].shape == []  # of two vectors
    return summed if scalar else None if out is None else math.prod(out) * summed


def _einsum(sizes: _Sizes) -> int | None:
    """Every letter is a loop."""
    operands = range(len(sizes.node.inputs))
    if len(operands) == 1:
        return 0
    equation = sizes.node.attrs.get("equation", "")
    equation = equation.decode() if isinstance(equation, bytes) else equation
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    loops: dict[str, int] = {}
    for index, term in zip(operands, terms, strict=True):
        shape = sizes.input(index)
        if shape is None or len(shape) != len(term):  # an ellipsis among others
            return None
        for letter, size in zip(term, shape, strict=True):
            loops[letter] = max(size, loops.get(letter, 1))
    return math.prod(loops.values())


def _recurrent(sizes: _Sizes) -> int | None:
    """Every step multiplies what is read, and the state, by their weights."""
    read, weight, recurrence = (sizes.input(index) for index in range(3))
    if read is None or weight is None or recurrence is None:
        return None
    return math.prod(read[:-1]) * (math.prod(weight) + math.prod(recurrence))


def _attention(sizes: _Sizes) -> int | None:
    """Scores, and sums of values by them; with states from before, sizes are not known."""
    query, key, value = (sizes.input(index) for index in range(3))
    past = [editing.present(sizes.node.inputs, index) for index in (4, 5)]
    if query is None or key is None or value is None or len(query) != len(value):
        return None
    if sizes.node.op == "Attention" and any(tensor is not None for tensor in past):
        return None
    scores = query[-2] * key[-2]
    if len(query) == 4:
        return query[0] * query[1] * scores * (query[3] + value[3])
    heads, shared = (int(sizes.node.attrs.get(f"{of}_num_heads", 1)) for of in ("q", "kv"))
    return query[0] * scores * (query[2] + value[2] * heads // shared)


def _fused_attention(sizes: _Sizes) -> int | None:
    """The same behind a product that makes queries, keys and values of one width."""
    read, weight = sizes.input(0), sizes.input(1)
    if read is None or weight is None or "qkv_hidden_sizes" in sizes.node.attrs:
        return None
    length = math.prod(read[:-1])
    return length * math.prod(weight) + 2 * length * read[-2] * (weight[1] // 3)


_STANDARD: dict[str, _Count] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Attention": _attention,
}
_CONTRIBUTED: dict[str, _Count] = {
    "MultiHeadAttention": _attention,
    "Attention": _fused_attention,
}


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
