"""Rows of axes merged in front of the batch come in the order of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.batch import PROBE
from graphpass.candidates import find_candidates
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.timeflow import Kind, TimeFlow, TimeType, View, infer, where_batch_goes


@dataclass(frozen=True)
class _Rows:
    """A tensor on whose batch axis other axes were merged in front of the batch.

    Attributes:
        outer: elements that lie in front of the batch, per element of the axes before.
        kind: its type with the batch in front.
    """

    outer: int
    kind: TimeType


@dataclass
class _Findings:
    """What is to be rewritten.

    Attributes:
        merging: node -> sizes that it writes, the place of the batch, and the axes that it
            merges: from the first up to the batch.
        parting: node -> sizes that it writes, and the place of the batch; the axes that it
            takes out of the rows: from the first up to that place; and inner elements.
        rows: the tensors between, by name.
    """

    merging: list[tuple[gs.Node, list[int], int, tuple[int, int]]] = field(default_factory=list)
    parting: list[tuple[gs.Node, list[int], int, int, int]] = field(default_factory=list)
    rows: dict[str, _Rows] = field(default_factory=dict)


class OrderRows(Pass):
    """[F, N, C] -> [F*N, C] becomes [N, F, C] -> [N*F, C], and the way back likewise.

    Time steps lie in front of the batch, so the batch has to lie in front of what it is merged
    with. Between a Reshape that merges axes in front of the batch and the one that takes them
    apart again, operators work row by row, so that the order of the rows does not matter. Where
    one does not, or rows are an output, nothing is changed; nor where no activation has been
    passed before the rows are taken apart.
    """

    def apply(self, model: Model) -> int:
        """All of them at once, or none."""
        shapes = [t.shape for t in model.graph.inputs if t.shape]
        firsts = {shape[0] for shape in shapes}
        literal = (
            next((s for s in firsts if isinstance(s, int)), None) if len(firsts) == 1 else None
        )
        found = _find(model, infer(model, ()), literal)
        if found is None or not found.merging or not _fires(model, found):
            return 0
        for merging in found.merging:
            _merge(model, *merging)
        for parting in found.parting:
            _part(model, *parting)
        return len(found.merging) + len(found.parting)


def _fires(model: Model, found: _Findings) -> bool:
    """Is there an activation that rows depend on, or that reads some?"""
    reached = {id(node.outputs[0]) for node in find_candidates(model).nodes}
    for node in model.graph.nodes:
        if any(id(tensor) in reached for tensor in node.inputs):
            reached.update(id(tensor) for tensor in node.outputs)
    tensors = model.graph.tensors()
    return any(id(tensors[name]) in reached for name in found.rows)


def _find(model: Model, flow: TimeFlow, literal: int | None) -> _Findings | None:
    """Where rows are merged and taken apart; None where rows reach what is not understood."""
    found = _Findings()
    types = dict(flow.types)
    for node in model.graph.nodes:
        given = [found.rows.get(t.name) for t in node.inputs]
        if any(given):
            if not _follow(model, node, given, types, found, literal):
                return None
        elif editing.is_standard(node, "Reshape", "Flatten"):
            _try_enter(node, types, found, literal)
    captured = {t.name for g in model.graph.subgraphs() for n in g.nodes for t in n.inputs}
    outputs = {tensor.name for tensor in model.graph.outputs}
    return None if found.rows.keys() & (captured | outputs) else found


def _try_enter(
    node: gs.Node, types: dict[str, TimeType], found: _Findings, literal: int | None
) -> None:
    """Does a node merge axes in front of the batch into it?"""
    kind, sizes = types.get(node.inputs[0].name), None
    if kind is not None and kind.batch_axis:
        sizes = _sizes(node.inputs[0], kind, literal)
    written = sizes and _written(node, sizes)
    if not sizes or not written or kind is None or not kind.batch_axis:
        return
    axis = kind.batch_axis
    before = math.prod(sizes[:axis])
    for place, size in enumerate(written):  # a literal 1 may be read in several ways
        if math.prod(written[:place]) == before and size == sizes[axis]:
            return
    for place in range(len(written)):
        outer, rest = divmod(before, math.prod(written[:place]) or 1)
        rows = _batches(written[place], literal)
        if rest or outer < 2 or rows is None or rows % outer:
            continue
        first = _cut(sizes[:axis], before // outer)
        if first is None:
            continue
        written[place] = PROBE * rows
        found.merging.append((node, written, place, (first, axis)))
        kind = TimeType(Kind.STATIC, place, inner=rows)
        found.rows[node.outputs[0].name] = _Rows(outer, kind)
        types[node.outputs[0].name] = kind
        return


def _follow(
    model: Model,
    node: gs.Node,
    given: Sequence[_Rows | None],
    types: dict[str, TimeType],
    found: _Findings,
    literal: int | None,
) -> bool:
    """What becomes of rows in a node; False where that is not understood."""
    rows = next(each for each in given if each is not None)
    if editing.is_standard(node, "Reshape", "Flatten"):
        return given[0] is rows and _reshaped(node, rows, types, found, literal)
    if any(each is not None and each.outer != rows.outer for each in given):
        return False
    others = [types.get(t.name) for t, each in zip(node.inputs, given, strict=True) if not each]
    if any(kind is not None and kind.batch_axis is not None for kind in others):
        return False
    if editing.is_standard(node, "Shape", "Size"):
        return True
    kinds = tuple(
        None if t.is_empty() else types.get(t.name, TimeType(Kind.STATIC)) for t in node.inputs
    )
    verdict = where_batch_goes(View(node, kinds, model.opset))
    if not isinstance(verdict, TimeType) or verdict.batch_axis is None:
        return False
    for tensor in node.outputs:
        found.rows[tensor.name] = replace(rows, kind=verdict)
        types[tensor.name] = verdict
    return True


def _reshaped(
    node: gs.Node,
    rows: _Rows,
    types: dict[str, TimeType],
    found: _Findings,
    literal: int | None,
) -> bool:
    """Rows that stay, or are taken apart."""
    axis = rows.kind.batch_axis
    sizes = _sizes(node.inputs[0], rows.kind, literal)
    written = sizes and _written(node, sizes)
    if axis is None or not sizes or not written:
        return False
    before = math.prod(sizes[:axis])
    places = [(p, math.prod(written[:p]), _batches(s, literal)) for p, s in enumerate(written)]
    for place, ahead, count in places:
        first = _cut(written[:place], before)
        if count is not None and ahead == before * rows.outer and first is not None:
            written[place] = PROBE * count
            found.parting.append((node, written, place, first, count))
            types[node.outputs[0].name] = TimeType(Kind.STATIC, place, inner=count)
            return True
    for place, ahead, count in places:
        if count is not None and ahead == before and count % rows.outer == 0:
            kind = TimeType(Kind.STATIC, place, inner=count)
            found.rows[node.outputs[0].name] = replace(rows, kind=kind)
            types[node.outputs[0].name] = kind
            return True
    return False


def _sizes(tensor: gs.Tensor, kind: TimeType, literal: int | None) -> list[int] | None:
    """The sizes of a tensor, the batch as a number; None where one is not known."""
    if tensor.shape is None or kind.batch_axis is None:
        return None
    sizes = list(tensor.shape)
    sizes[kind.batch_axis] = (literal or PROBE) * kind.inner
    return sizes if all(isinstance(size, int) and size > 0 for size in sizes) else None


def _written(node: gs.Node, sizes: list[int]) -> list[int] | None:
    """The sizes that a Reshape or Flatten writes; None where they are not known."""
    if node.op == "Flatten":
        axis = int(node.attrs.get("axis", 1))
        axis = axis + len(sizes) if axis < 0 else axis
        return [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    target = editing.values(node.inputs[1])
    if target is None or (node.attrs.get("allowzero") and 0 in target):
        return None
    written = [sizes[i] if size == 0 else int(size) for i, size in enumerate(target.ravel())]
    if -1 in written:
        rest, total = -math.prod(written), math.prod(sizes)
        if rest < 1:
            return None
        written[written.index(-1)] = total // rest if total % rest == 0 else 0
    return written if 0 not in written else None


def _batches(size: int, literal: int | None) -> int | None:
    """How many times the batch a size is; None if it is not a multiple of it."""
    if size % PROBE == 0:
        return size // PROBE
    return size // literal if literal and size % literal == 0 else None


def _cut(sizes: Sequence[int], ahead: int) -> int | None:
    """The last axis in front of which so many elements lie."""
    places = [place for place in range(len(sizes)) if math.prod(sizes[:place]) == ahead]
    return places[-1] if places else None


def _merge(
    model: Model, node: gs.Node, written: list[int], place: int, axes: tuple[int, int]
) -> None:
    source, (first, batch) = node.inputs[0], axes
    order = [*range(first), batch, *range(first, batch), *range(batch + 1, len(source.shape))]
    turned = _transposed(model, node, source, order)
    _reshape(model, node, turned, written, place)


def _part(
    model: Model, node: gs.Node, written: list[int], place: int, first: int, inner: int
) -> None:
    """To [.., N, axes taken out, inner, ..], and the batch behind these axes."""
    output = node.outputs[0]
    tail = [inner] if inner > 1 else []
    apart = [*written[:first], PROBE, *written[first:place], *tail, *written[place + 1 :]]
    name = editing.fresh_name(model, f"{output.name}/apart")
    parted = gs.Variable(name, output.dtype, [None if s == PROBE else s for s in apart])
    order = [*range(first), *range(first + 1, place + 1), first, *range(place + 1, len(apart))]
    if tail:
        before = gs.Node("Reshape", name, inputs=list(node.inputs), outputs=[parted])
        model.graph.nodes.append(before)
        _reshape(model, before, node.inputs[0], apart, first)
        _reshape(model, node, _transposed(model, node, parted, order), written, place)
        return
    node.outputs = [parted]
    _reshape(model, node, node.inputs[0], apart, first)
    turn = gs.Node("Transpose", f"{name}/order", {"perm": order}, [parted], [output])
    model.graph.nodes.append(turn)


def _transposed(model: Model, node: gs.Node, source: gs.Tensor, order: list[int]) -> gs.Variable:
    name = editing.fresh_name(model, f"{node.outputs[0].name}/order")
    shape = [source.shape[axis] for axis in order]
    turned = gs.Variable(name, source.dtype, shape)
    model.graph.nodes.append(gs.Node("Transpose", name, {"perm": order}, [source], [turned]))
    return turned


def _reshape(
    model: Model, node: gs.Node, source: gs.Tensor, written: list[int], place: int
) -> None:
    """Let a node be a Reshape to these sizes, whatever the batch is."""
    sizes = [-1 if axis == place else size for axis, size in enumerate(written)]
    name = f"{node.outputs[0].name}/target"
    node.op, node.attrs = "Reshape", {}
    node.inputs = [source, editing.constant(model, name, np.array(sizes, np.int64))]
