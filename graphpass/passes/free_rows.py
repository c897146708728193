"""Constants that repeat one row for every sample of a literal batch; part of `FreeBatch`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.timeflow import TimeFlow


def free_rows(model: Model, node: gs.Node, flow: TimeFlow, size: int) -> bool:
    """Let a node read such constants for any number of samples.

    Args:
        model: a network with a literal batch size; nodes are added to it.
        node: Concat, or an operator that works element by element.
        flow: its types.
        size: the batch size.
    """
    ranks = [len(t.shape) if t.shape is not None else None for t in node.inputs]
    places = {
        (kind.batch_axis - (rank or 0), kind.inner)  # counted from the end
        for tensor, rank in zip(node.inputs, ranks, strict=True)
        if (kind := flow.types.get(tensor.name)) and kind.batch_axis is not None
    }
    if len(places) != 1 or None in ranks:
        return False
    (place, inner) = places.pop()
    changed = False
    for index, tensor in enumerate(list(node.inputs)):
        row = _row(tensor, place, size * inner)
        if row is None:
            continue
        if node.op != "Concat":  # broadcasts
            if size * inner == 1:
                continue
            node.inputs[index] = editing.constant(model, f"{tensor.name}/row", row)
        elif inner == 1 and place == -row.ndim:
            node.inputs[index] = _repeated(model, node, tensor, row)
        else:
            continue
        changed = True
    return changed


def _row(tensor: gs.Tensor, place: int, size: int) -> NDArray[Any] | None:
    """The row of a constant that has the same one for all samples."""
    values = editing.values(tensor) if isinstance(tensor, gs.Constant) else None
    if values is None or values.ndim < -place or values.shape[place] != size:
        return None
    row = values.take([0], place)
    return row if np.array_equal(np.broadcast_to(row, values.shape), values) else None


def _repeated(model: Model, node: gs.Node, tensor: gs.Tensor, row: NDArray[Any]) -> gs.Variable:
    """As many copies of a row as the first input of the network has samples."""
    source = model.graph.inputs[0]
    name = editing.fresh_name(model, f"{node.outputs[0].name}/{tensor.name}")
    shape, batch, target = (
        gs.Variable(f"{name}/{part}", np.dtype(np.int64), [count])
        for part, count in (
            ("shape", len(source.shape)),
            ("batch", 1),
            ("target", row.ndim),
        )
    )
    repeated = gs.Variable(f"{name}/repeated", row.dtype, [None, *row.shape[1:]])
    first, ones, kept = (
        editing.constant(model, f"{name}/{part}", array)
        for part, array in (
            ("first", np.zeros(1, np.int64)),
            ("ones", np.ones(row.ndim - 1, np.int64)),
            ("row", row),
        )
    )
    model.graph.nodes[:0] = [
        gs.Node("Shape", shape.name, inputs=[source], outputs=[shape]),
        gs.Node("Gather", batch.name, {"axis": 0}, [shape, first], [batch]),
        gs.Node("Concat", target.name, {"axis": 0}, [batch, ones], [target]),
        gs.Node("Expand", repeated.name, inputs=[kept, target], outputs=[repeated]),
    ]
    return repeated
