"""Stage 4, form `counts`: a neuron in front of a MaxPool moves behind it."""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.passes.base import Pass, until_settled


class PoolFirst(Pass):
    """DA-QCFS -> MaxPool becomes MaxPool -> DA-QCFS, which has fewer neurons.

    Exact without a time axis, because DA-QCFS does not decrease (amplitudes are
    positive). The record says so: the counts are those of the pooled neurons.
    """

    def apply(self, model: Model) -> int:
        """Until nothing moves: pools may follow one another."""
        return until_settled(model, _try_move)


def _try_move(model: Model, pool: gs.Node) -> bool:
    if not editing.is_standard(pool, "MaxPool", "GlobalMaxPool") or len(pool.outputs) != 1:
        return False
    active = pool.inputs[0]
    node = active.inputs[0] if len(active.inputs) == 1 else None
    if node is None or not editing.is_dialect(node, dialect.DAQCFS):
        return False
    if editing.single_consumer(model, active) is None:
        return False
    assert model.record is not None, "neurons live in the record"
    records = {neuron.spikes: neuron for neuron in model.record.neurons}
    neuron = records[node.outputs[2].name]
    # Along another axis than 1 the channels would be pooled, and their thresholds with them.
    if (neuron.amplitude <= 0).any() or neuron.channel_axis not in (1, None):
        return False
    pooled = pool.outputs[0]
    current = gs.Variable(
        editing.fresh_name(model, f"{active.name}/pooled_current"), active.dtype, pooled.shape
    )
    pool.inputs[0] = node.inputs[0]
    pool.outputs = [current]
    node.inputs[0] = current
    node.outputs[0] = pooled
    records[neuron.spikes] = replace(
        neuron, pools=(*neuron.pools, {"op": pool.op, "attrs": dict(pool.attrs)})
    )
    model.note(neurons=tuple(records.values()))
    return True
