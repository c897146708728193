"""Whether a network makes sense, and a stage file's description of it fits its graph.

A conversion carries on from what the metadata says, and metadata can be edited, damaged, or
left behind by a tool that rewrote the graph.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model, infer_shapes
from graphpass.neurons import Neuron
from graphpass.plan import recorded_verdicts
from graphpass.timeflow import TimeType, infer
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import Stage

_FUNCTIONS = {
    Stage.CLIP: (dialect.CLIP_RELU, dialect.CLIP_ABOVE, dialect.QCFS),
    Stage.DAQCFS: (dialect.DAQCFS,),
    Stage.CALIBRATED: (dialect.DAQCFS,),
}
_INPUTS = {dialect.CLIP_RELU: 2, dialect.CLIP_ABOVE: 4, dialect.QCFS: 3, dialect.DAQCFS: 5}


def check_stage_file(model: Model) -> None:
    """Compare metadata and graph of a file of stage 1, 2 or 3.

    Raises:
        ModelError: they do not fit together, or a node cannot be placed in time.
    """
    record = model.record
    assert record is not None, "a stage file has a record"
    editing.tidy(model)  # neurons that no output hangs on are none
    nodes = [n for n in model.graph.nodes if editing.is_dialect(n, *_FUNCTIONS[record.stage])]
    for node in nodes:
        constants = [editing.values(tensor) for tensor in node.inputs[1:]]
        complete = len(node.inputs) == _INPUTS[dialect.family(node.op)]
        if not complete or any(array is None for array in constants):
            raise _unfit(model, f"{editing.describe(node)} lacks a parameter")
    written = {node.outputs[0].name: node for node in nodes if node.outputs}
    verdicts = recorded_verdicts(model)
    names = [verdict.name for verdict in verdicts if verdict.status == "converted"]
    if record.stage is not Stage.CLIP:
        names = [neuron.name for neuron in record.neurons]
        if set(names) != set(written):
            raise _unfit(model, "it names other neurons")
    if not names or len(set(names)) != len(names) or not set(names) <= set(written):
        raise _unfit(model, "it names other neurons")
    infer_shapes(model)
    check_sizes(model)
    flow = infer(model, names, islands=any(v.status == "island" for v in verdicts))
    if flow.refused:
        raise ModelError(str(flow.refused[0]), where=model.name)
    for neuron in record.neurons:
        _check_axes(model, neuron, written[neuron.name], flow.types[neuron.name])
        if record.steps is None or not 1 <= neuron.levels <= record.steps:
            raise _unfit(model, f"neuron '{neuron.name}' has {neuron.levels} levels")


def check_sizes(model: Model) -> None:
    """Refuse a network that computes tensors without elements.

    Nothing can be measured on it, and ONNX Runtime may divide by their size and take the
    process with it.

    Raises:
        ModelError: a size is zero.
    """
    for node in model.graph.nodes:
        for tensor in node.outputs:
            if 0 in (tensor.shape or ()):
                raise ModelError(
                    f"{editing.describe(node)} writes a tensor of sizes {tensor.shape}",
                    where=model.name,
                    remedy="check the size of the network's inputs",
                )


def _check_axes(model: Model, neuron: Neuron, node: gs.Node, kind: TimeType) -> None:
    shape = list(node.inputs[0].shape or ())
    axis, channels = neuron.channel_axis, neuron.channels
    fits = axis is None or (0 <= axis < len(shape) and shape[axis] in (channels, None))
    if kind.batch_axis != neuron.batch_axis or (channels > 1 and (axis is None or not fits)):
        raise _unfit(model, f"neuron '{neuron.name}' has other axes or channels")


def _unfit(model: Model, what: str) -> ModelError:
    return ModelError(
        f"graphpass metadata and graph do not fit together ({what})",
        where=model.name,
        remedy="convert the ANN again",
    )
