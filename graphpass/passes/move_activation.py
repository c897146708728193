"""An activation behind a MaxPool moves in front of it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.passes.base import Pass, until_settled

_LAYOUT = "DepthToSpace Flatten Reshape Slice SpaceToDepth Squeeze Transpose Unsqueeze".split()


class MoveActivation(Pass):
    """MaxPool -> activation becomes activation -> MaxPool.

    Exact, because the activations here do not decrease: f(max x) = max f(x). A pool
    of currents that differ per step would not be: the maximum of the means is not
    the mean of the maxima. Only where the activation is all that reads the pool, if behind
    operators that change the layout.
    """

    def apply(self, model: Model) -> int:
        """Until nothing moves: pools may follow one another."""
        return until_settled(model, _try_move)


def _try_move(model: Model, pool: gs.Node) -> bool:
    if not editing.is_standard(pool, "MaxPool", "GlobalMaxPool") or len(pool.outputs) != 1:
        return False
    behind = pool.outputs[0]
    activation = editing.single_consumer(model, behind)
    while activation is not None and editing.is_standard(activation, *_LAYOUT):
        behind = activation.outputs[0]
        activation = editing.single_consumer(model, behind)
    if activation is None or behind is not activation.inputs[0]:
        return False
    rectifies = editing.is_standard(activation, "Relu", "Clip")
    if not rectifies and not editing.is_dialect(activation, dialect.QCFS):
        return False
    parameters = activation.inputs[1:]
    if any(not isinstance(t, gs.Constant) or t.values.size != 1 for t in parameters):
        return False
    output = activation.outputs[0]
    active = gs.Variable(
        editing.fresh_name(model, f"{output.name}/unpooled"), output.dtype, pool.inputs[0].shape
    )
    (last,) = behind.inputs
    activation.inputs[0] = pool.inputs[0]
    activation.outputs[0] = active
    pool.inputs[0] = active
    last.outputs = [output]
    return True
