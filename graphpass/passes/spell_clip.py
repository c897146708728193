"""One spelling for rectifiers: Relu when there is no upper bound, else Clip(0, c)."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.activation import bounds
from graphpass.model import Model
from graphpass.passes.base import Pass


class SpellClip(Pass):
    """Write every rectifier as `Relu(x)` or `Clip(x, 0, c)` with scalar constants.

    Chains such as Min(Relu(x), 6) become one node. Nodes whose interval does not
    start at 0 stay as they are.
    """

    def apply(self, model: Model) -> int:
        """Later nodes first, so that a chain is merged into its last node."""
        return sum(_try_spell(model, node) for node in reversed(list(model.graph.nodes)))


def _try_spell(model: Model, node: gs.Node) -> bool:
    interval = bounds(node)
    if interval is None or not node.outputs:
        return False
    low, high = interval
    source, chain = _data_input(node), [node]
    while source is not None and len(source.inputs) == 1:
        ahead = source.inputs[0]
        wider = bounds(ahead)
        if wider is None or editing.single_consumer(model, source) is None:
            break
        # Clipping by the inner interval first, then by the outer.
        low, high = (min(max(wider[0], low), high), max(min(wider[1], high), low))
        source = _data_input(ahead)
        chain.append(ahead)
    if source is None or low != 0.0 or high <= 0.0:
        return False
    if len(chain) == 1 and _is_normal(node):
        return False
    for merged in chain[1:]:
        editing.detach(merged)
    _write(model, node, source, high)
    return True


def _data_input(node: gs.Node) -> gs.Tensor | None:
    variable = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
    return variable[0] if len(variable) == 1 else None


def _is_normal(node: gs.Node) -> bool:
    if node.op != "Clip":
        return bool(node.op == "Relu")
    interval = bounds(node)
    scalars = all(t.values.ndim == 0 for t in node.inputs[1:] if isinstance(t, gs.Constant))
    return interval is not None and math.isfinite(interval[1]) and scalars


def _write(model: Model, node: gs.Node, source: gs.Tensor, high: float) -> None:
    name, dtype = node.outputs[0].name, source.dtype or np.dtype(np.float32)
    node.attrs.clear()
    if math.isinf(high):
        node.op, node.inputs = "Relu", [source]
    elif model.opset < 11:
        node.op, node.inputs = "Clip", [source]
        node.attrs.update(min=0.0, max=high)
    else:
        low = editing.constant(model, f"{name}/min", np.zeros((), dtype))
        top = editing.constant(model, f"{name}/max", np.asarray(high, dtype))
        node.op, node.inputs = "Clip", [source, low, top]
