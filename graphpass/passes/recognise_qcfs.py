"""The quantisation-clip-floor-shift activation, however an exporter spelt it.

With Round in place of Floor, and without its 1/2, it is the quantiser of quantisation-aware
training, which rounds halves to even.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.activation import bounds
from graphpass.model import Model
from graphpass.neurons import Ties, qcfs
from graphpass.passes.base import Pass

_RELATIVE = 1e-5  # exporters fold constants in float32
_LONGEST = 6  # nodes on either side of the rounding
_TIES = {"Floor": Ties.HALF_UP, "Round": Ties.HALF_EVEN}
_MIDDLE = {Ties.HALF_UP: 0.5, Ties.HALF_EVEN: 0.0}


@dataclass(frozen=True)
class _Affine:
    """gain * x + offset, kept within [low, high]; all broadcastable arrays."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    low: float | NDArray[np.float64] = -math.inf
    high: float | NDArray[np.float64] = math.inf

    def then(self, node: gs.Node) -> _Affine | None:
        """The same followed by a node; None when that is no step of a QCFS."""
        if (interval := bounds(node)) is not None:
            low, high = (np.clip(limit, self.low, self.high) for limit in interval)
            return replace(self, low=low, high=high)
        factor, summand = _step(node)
        if factor is None or summand is None or np.any(factor <= 0):
            return None
        return _Affine(
            self.gain * factor,
            self.offset * factor + summand,
            self.low * factor + summand,
            self.high * factor + summand,
        )


_IDENTITY = _Affine(np.ones(()), np.zeros(()))


def _step(node: gs.Node) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """(factor, summand) of Mul, Div, Add or Sub by a constant, else (None, None)."""
    if not editing.is_standard(node, "Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None, None
    where = [i for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant)]
    if len(where) != 1 or (node.op in ("Div", "Sub") and where != [1]):
        return None, None
    value = np.asarray(node.inputs[where[0]].values, np.float64)
    zero, one = np.zeros(()), np.ones(())
    return {
        "Mul": (value, zero),
        "Div": (1.0 / value, zero),
        "Add": (one, value),
        "Sub": (one, -value),
    }[node.op]


class RecogniseQCFS(Pass):
    """Replace the nodes of a QCFS by one `graphpass::QCFS`, or `graphpass::QCFSHalfEven`.

    Whatever stands around a Floor is composed into u = gain x + offset before it and
    y = scale n after it; it is a QCFS (eq. 5 of the paper) when n is kept within 0..T,
    offset = 1/2 (0 around a Round) and scale = 1/gain = theta/T. The longest such chain is
    taken: rounding and clipping alone are a QCFS too, with theta = T and the real theta left
    around it.
    """

    def apply(self, model: Model) -> int:
        """One Floor or Round, one candidate."""
        pivots = [n for n in model.graph.nodes if editing.is_standard(n, *_TIES)]
        with np.errstate(all="ignore"):  # what does not stay finite is no QCFS
            return sum(_try_recognise(model, node) for node in pivots)


def _try_recognise(model: Model, pivot: gs.Node) -> bool:
    ties = _TIES[pivot.op]
    rounded = np.floor if ties is Ties.HALF_UP else np.rint
    best: list[gs.Node] = []
    found: tuple[NDArray[Any], int] | None = None
    for before in _chains_before(model, pivot):
        charge = _compose(_IDENTITY, before)
        if charge is None:
            continue
        emit: _Affine | None = _Affine(
            np.ones(()), np.zeros(()), rounded(charge.low), rounded(charge.high)
        )
        chain = [*before, pivot]
        for node in _nodes_after(model, pivot):
            emit = None if emit is None else emit.then(node)
            if emit is None:
                break
            chain.append(node)
            if len(chain) > len(best) and (match := _match(charge, emit, ties)) is not None:
                best, found = list(chain), match
    if found is None:
        return False
    source, output = _variable_input(best[0]), best[-1].outputs[0]
    for node in best:
        editing.detach(node)
    model.graph.nodes.append(qcfs.node(model, source, output, *found, ties))
    return True


def _chains_before(model: Model, pivot: gs.Node) -> Iterator[list[gs.Node]]:
    """Runs of nodes that end at the rounding's input, shortest first."""
    chain: list[gs.Node] = []
    tensor = pivot.inputs[0]
    while len(tensor.inputs) == 1 and len(chain) < _LONGEST:
        node = tensor.inputs[0]
        if editing.single_consumer(model, tensor) is None:
            return
        if bounds(node) is None and _step(node)[0] is None:
            return
        chain.insert(0, node)
        yield list(chain)
        tensor = _variable_input(node)


def _nodes_after(model: Model, pivot: gs.Node) -> Iterator[gs.Node]:
    tensor = pivot.outputs[0]
    for _ in range(_LONGEST):
        node = editing.single_consumer(model, tensor)
        if node is None or len(node.outputs) != 1:
            return
        yield node
        tensor = node.outputs[0]


def _variable_input(node: gs.Node) -> gs.Tensor:
    return next(t for t in node.inputs if not isinstance(t, gs.Constant))


def _compose(start: _Affine, nodes: list[gs.Node]) -> _Affine | None:
    result: _Affine | None = start
    for node in nodes:
        result = None if result is None else result.then(node)
    return result


def _match(charge: _Affine, emit: _Affine, ties: Ties) -> tuple[NDArray[Any], int] | None:
    """(theta, levels) when the composition is a QCFS."""
    if not np.all(np.isfinite(emit.high)) or np.any(emit.low) or np.any(emit.offset):
        return None
    levels = emit.high / emit.gain
    if not np.all(np.isfinite(levels)):
        return None
    count = round(float(np.max(levels)))
    if count < 1 or not np.allclose(levels, float(count), rtol=_RELATIVE):
        return None
    half = np.allclose(charge.offset, _MIDDLE[ties], rtol=_RELATIVE)
    same = np.allclose(charge.gain * emit.gain, 1.0, rtol=_RELATIVE)
    return (count / charge.gain, count) if half and same else None
