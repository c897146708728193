"""Operators on integers become float operators between quantisers: QOperator becomes QDQ.

QLinearConv and QLinearMatMul are ONNX's, the others ONNX Runtime's (its docs/ContribOperators.md).
Each says z = Quantize(op(Dequantize(x), Dequantize(y))). Kernels compute that in whole numbers and
round once, so that results may differ by one step where a sum lies next to a tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass

_DOMAINS = (None, "", "ai.onnx", "com.microsoft")
_OTHER_SOFTMAX = 13  # the opset that changed what Softmax is over

#: Operators that move or compare values do with integers what they do with floats.
_MOVING = (
    "DepthToSpace Expand Flatten Gather Identity MaxPool Pad Reshape Slice SpaceToDepth Split"
    " Squeeze Tile Transpose Unsqueeze"
).split()


@dataclass(frozen=True)
class _Layout:
    """Where an operator on integers has what; scale and zero point stand behind each operand.

    Attributes:
        op: the float operator.
        data: indices of the operands.
        result: index of the scale of the output.
        bias: index of a bias, in steps of the products.
        plain: index of an operand that is not quantised.
    """

    op: str
    data: tuple[int, ...] = (0, 3)
    result: int = 6
    bias: int | None = None
    plain: int | None = None


_LAYOUTS = {
    "QLinearConv": _Layout("Conv", bias=8),
    "QLinearMatMul": _Layout("MatMul"),
    "QGemm": _Layout("Gemm", result=7, bias=6),
    "QLinearAdd": _Layout("Add"),
    "QLinearMul": _Layout("Mul"),
    "QLinearWhere": _Layout("Where", (1, 4), 7, plain=0),
} | {
    f"QLinear{op}": _Layout(op, (0,), 3)
    for op in ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax")
}


class SpellQOperator(Pass):
    """QLinearConv becomes DequantizeLinear, Conv, QuantizeLinear; and so on.

    What moves integers between them is dequantised as well, so that the activations in front
    of it can be recognised. An operator whose channels come last stays, and so does one whose
    scales are computed.
    """

    def apply(self, model: Model) -> int:
        """In topological order: the grid of a tensor is known before what moves it."""
        grids: dict[int, list[gs.Tensor]] = {}
        count = 0
        for node in list(model.graph.nodes):
            if editing.is_standard(node, "QuantizeLinear") and "axis" not in node.attrs:
                grids[id(node.outputs[0])] = _grid(node, 1)
            elif editing.is_standard(node, *_MOVING):
                count += _try_move(model, node, grids)
            else:
                count += _try_spell(model, node, grids)
        return count


def _try_spell(model: Model, node: gs.Node, grids: dict[int, list[gs.Tensor]]) -> bool:
    layout = _layout(node)
    if layout is None or not node.outputs or not _is_plain(model, node):
        return False
    operands = [_grid(node, index + 1) for index in layout.data]
    rounded, output = _grid(node, layout.result), node.outputs[0]
    known = all(editing.values(t) is not None for grid in [rounded, *operands] for t in grid)
    if not known or not all(operands) or not (rounded or node.op == "QGemm"):
        return False
    bias = [] if layout.bias is None else _bias(model, node, layout.bias)
    if bias is None:
        return False
    plain = [] if layout.plain is None else [node.inputs[layout.plain]]
    axes = [_axis(node, layout, place) for place in range(len(operands))]
    read = [
        _dequantised(model, node.inputs[index], grid, axis)
        for index, grid, axis in zip(layout.data, operands, axes, strict=True)
    ]
    attrs = {k: v for k, v in node.attrs.items() if k not in ("channels_last", "opset")}
    spelt = gs.Node(layout.op, node.name, attrs, [*plain, *read, *bias])
    model.graph.nodes.insert(model.graph.nodes.index(node), spelt)
    editing.detach(node)
    if rounded:
        _quantise(model, spelt, output, rounded)
        grids[id(output)] = rounded
    else:
        spelt.outputs = [output]
    return True


def _layout(node: gs.Node) -> _Layout | None:
    if node.domain not in _DOMAINS:
        return None
    if node.op == "QLinearConcat":
        return _Layout("Concat", tuple(range(2, len(node.inputs), 3)), 0)
    return _LAYOUTS.get(node.op)


def _is_plain(model: Model, node: gs.Node) -> bool:
    """Is it the standard operator in all but its integers?"""
    if node.op == "QLinearSoftmax":
        return (int(node.attrs.get("opset", 0)) < _OTHER_SOFTMAX) == (model.opset < _OTHER_SOFTMAX)
    return not node.attrs.get("channels_last", 0)


def _grid(node: gs.Node, index: int) -> list[gs.Tensor]:
    """Scale and zero point, which may be left out; nothing where there is no scale."""
    given = [editing.present(node.inputs, place) for place in (index, index + 1)]
    return [] if given[0] is None else [tensor for tensor in given if tensor is not None]


def _axis(node: gs.Node, layout: _Layout, place: int) -> int:
    """The axis that an operand's scales lie on, if there are several."""
    if layout.op == "MatMul":
        return -2 if place == 0 else -1
    if layout.op == "Gemm":
        return 1 - int(bool(node.attrs.get("transB", 0))) if place else 0
    return 0


def _bias(model: Model, node: gs.Node, index: int) -> list[gs.Tensor] | None:
    """The bias in float32; None if its steps are not known."""
    if editing.present(node.inputs, index) is None:
        return []
    whole = editing.values(node.inputs[index])
    steps = [editing.values(node.inputs[place]) for place in (1, 4)]
    if whole is None or steps[0] is None or steps[1] is None:
        return None
    alpha = np.float32(node.attrs.get("alpha", 1.0) if node.op == "QGemm" else 1.0)
    if steps[0].size != 1 or steps[1].size not in (1, *whole.shape[-1:]):
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite stays so
        real = (whole * (alpha * steps[0].ravel() * steps[1].ravel())).astype(np.float32)
    return [editing.constant(model, f"{node.outputs[0].name}/bias", real)]


def _dequantised(model: Model, source: gs.Tensor, grid: list[gs.Tensor], axis: int) -> gs.Variable:
    name = editing.fresh_name(model, f"{source.name}/read")
    value = gs.Variable(name, np.dtype(np.float32), source.shape)
    several = np.asarray(editing.values(grid[0])).size > 1
    attrs = {"axis": axis} if several else {}
    node = gs.Node("DequantizeLinear", name, attrs, [source, *grid], [value])
    model.graph.nodes.append(node)
    return value


def _quantise(model: Model, node: gs.Node, output: gs.Tensor, grid: list[gs.Tensor]) -> None:
    """Let a node's output be rounded to what it was before."""
    name = editing.fresh_name(model, f"{output.name}/real")
    real = gs.Variable(name, np.dtype(np.float32), output.shape)
    node.outputs = [*node.outputs, real]
    quantise = gs.Node("QuantizeLinear", name, {}, [real, *grid], [output])
    model.graph.nodes.append(quantise)


def _try_move(model: Model, node: gs.Node, grids: dict[int, list[gs.Tensor]]) -> bool:
    """Let it move floats, and its readers read the integers that these are rounded to."""
    grid, outputs = grids.get(id(node.inputs[0])), list(node.outputs)
    if grid is None or (node.op == "MaxPool" and len(outputs) > 1):
        return False
    if node.op == "Pad" and not _pad_zero(model, node, grid):
        return False
    node.inputs[0] = _dequantised(model, node.inputs[0], grid, 0)
    node.outputs = []
    for output in outputs:
        _quantise(model, node, output, grid)
        grids[id(output)] = grid
    return True


def _pad_zero(model: Model, node: gs.Node, grid: list[gs.Tensor]) -> bool:
    """Let a Pad with the integer of 0 pad with 0."""
    given = editing.present(node.inputs, 2)
    middle = editing.scalar(grid[1]) if len(grid) > 1 else 0.0
    value = 0.0 if given is None else editing.scalar(given)
    if value is None or value != middle:
        return False
    zero = editing.constant(model, f"{node.outputs[0].name}/padding", np.zeros((), np.float32))
    node.inputs = [*node.inputs[:2], zero, *node.inputs[3:]]
    return True
