"""A scalar function behind a MaxPool moves in front of it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.curves import Curve, Unfit
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.regions import Region, find_regions


class MoveFunctions(Pass):
    """MaxPool -> f becomes f -> MaxPool, for functions f that do not decrease.

    As `MoveActivation` does it for rectifiers: f(max x) = max f(x), and a MaxPool of spikes
    is exact, where one of currents is not. Only where f is all that reads the pool.
    """

    def apply(self, model: Model) -> int:
        """Until nothing moves: pools may follow one another."""
        count = 0
        while any(_try_move(model, region) for region in find_regions(model).values()):
            editing.tidy(model)
            count += 1
        return count


def _try_move(model: Model, region: Region) -> bool:
    pooled = region.source
    pool = pooled.inputs[0] if len(pooled.inputs) == 1 else None
    if pool is None or not editing.is_standard(pool, "MaxPool", "GlobalMaxPool"):
        return False
    if len(pool.outputs) != 1 or region.axis not in (None, 1) or not _is_alone(model, region):
        return False
    pieces = Curve.of(region, model.opset).pieces()
    if isinstance(pieces, Unfit) or len(pieces) != 1 or pieces[0].sign < 0:
        return False
    name, sink, last = region.sink.name, region.sink, region.nodes[-1]
    unpooled = pool.inputs[0]
    active = gs.Variable(editing.fresh_name(model, f"{name}/unpooled"), sink.dtype, unpooled.shape)
    for node in region.nodes:
        node.inputs = [unpooled if tensor is pooled else tensor for tensor in node.inputs]
    for node in region.nodes[:-1]:
        node.outputs[0].shape = unpooled.shape
    last.outputs = [active]
    pool.inputs[0] = active
    pool.outputs = [sink]
    return True


def _is_alone(model: Model, region: Region) -> bool:
    """Does nothing else read the pool, or what lies inside of the function?"""
    inside = {id(node) for node in region.nodes}
    inner = [region.source, *(node.outputs[0] for node in region.nodes[:-1])]
    return all(
        not editing.is_output(model, tensor) and all(id(n) in inside for n in tensor.outputs)
        for tensor in inner
    )
