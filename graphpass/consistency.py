"""Whether a network makes sense, and a stage file's description of it fits its graph.

A conversion carries on from what the metadata says, and metadata can be edited, damaged, or
left behind by a tool that rewrote the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model, copied, infer_shapes
from graphpass.neurons import Carrier, Neuron, parameters
from graphpass.timeflow import TimeType, infer
from graphpass.verdicts import recorded_verdicts
from graphpass_runtime.data import Dataset
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord, Stage

_FUNCTIONS = {
    Stage.CLIP: (dialect.CLIP_RELU, dialect.CLIP_ABOVE, dialect.QCFS),
    Stage.DAQCFS: (dialect.DAQCFS,),
    Stage.CALIBRATED: (dialect.DAQCFS,),
}


def check_stage_file(model: Model) -> None:
    """Compare metadata and graph of a file that graphpass wrote; others pass.

    Raises:
        ModelError: they do not fit together, or a node cannot be placed in time.
    """
    record = model.record
    early = record is None or record.stage in (Stage.NORMALISED, Stage.CLIP)
    if early and any(editing.is_dialect(node, dialect.DAQCFS) for node in model.graph.nodes):
        raise _unfit(model, "it has neurons of a later stage")
    if record is None:
        return
    if record.stage not in (Stage.NORMALISED, Stage.CLIP) and not (record.steps and record.neurons):
        raise _unfit(model, "it names no neurons, or no number of steps")
    for neuron in record.neurons:
        if neuron.firing_steps > (record.steps or 0):
            raise _unfit(model, f"neuron '{neuron.name}' has {neuron.levels} levels")
    if record.stage is Stage.SPIKING:
        _check_spikes(model, record)
        return
    editing.tidy(model)  # neurons that no output hangs on are none
    infer_shapes(model)  # what the file says of them is not always so
    check_sizes(model)
    if record.stage is not Stage.NORMALISED:
        _check_neurons(model, record)


def _check_spikes(model: Model, record: FileRecord) -> None:
    """Every function that spikes is a neuron's, and every neuron has its spikes."""
    tensors = model.graph.tensors()
    known = {neuron.spikes for neuron in record.neurons}
    serial = any(neuron.carrier is Carrier.SERIAL for neuron in record.neurons)
    for node in model.graph.nodes:
        if editing.is_dialect(node, *dialect.SPIKING):
            if node.outputs[-1].name not in known:
                raise _unfit(model, "it names other neurons")
            _check_parameters(model, node, node.inputs[2 if serial else 1 :])
    if not serial and not known <= set(tensors):  # those may be inside of a Scan
        raise _unfit(model, "it names other neurons")


def _check_parameters(model: Model, node: gs.Node, parameters: Iterable[gs.Tensor]) -> None:
    if any(editing.values(tensor) is None for tensor in parameters):
        raise _unfit(model, f"{editing.describe(node)} lacks a parameter")


def _check_neurons(model: Model, record: FileRecord) -> None:
    """Stages 1 to 3: the same neurons, on the same axes."""
    nodes = [n for n in model.graph.nodes if editing.is_dialect(n, *_FUNCTIONS[record.stage])]
    for node in nodes:
        _check_parameters(model, node, node.inputs[1:])
    written = {node.outputs[0].name: node for node in nodes}
    verdicts = recorded_verdicts(model)
    names = [verdict.name for verdict in verdicts if verdict.status == "converted"]
    if record.stage is not Stage.CLIP:
        names = [neuron.name for neuron in record.neurons]
        if set(names) != set(written):
            raise _unfit(model, "it names other neurons")
    if not names or len(set(names)) != len(names) or not set(names) <= set(written):
        raise _unfit(model, "it names other neurons")
    flow = infer(model, names, islands=any(v.status == "island" for v in verdicts))
    if flow.refused:
        raise ModelError(str(flow.refused[0]), where=model.name)
    for neuron in record.neurons:
        node = written[neuron.name]
        if [t.name for t in node.outputs[1:]] != [neuron.potential, neuron.spikes]:
            raise _unfit(model, f"neuron '{neuron.name}' has other tensors")
        if any(tensor.outputs for tensor in node.outputs[1:]):
            raise _unfit(model, f"potential or spikes of neuron '{neuron.name}' are read")
        _check_axes(model, neuron, node, flow.types[neuron.name])
        if editing.is_dialect(node, dialect.DAQCFS):
            _check_shapes(model, neuron, node)


def _check_shapes(model: Model, neuron: Neuron, node: gs.Node) -> None:
    """Parameters of other shapes would give an output of another one."""
    along = parameters.beside(neuron.threshold, len(node.inputs[0].shape), neuron.channel_axis)
    for tensor in node.inputs[1:]:
        if tuple(tensor.shape) not in ((), along.shape):
            raise _unfit(model, f"neuron '{neuron.name}' has parameters of other shapes")


def activation_of(model: Model, neuron: Neuron) -> gs.Node:
    """The activation of an ANN that a neuron stands for.

    Args:
        model: stage 0 or 1, shapes inferred.
        neuron: from the record of another file.

    Raises:
        ModelError: there is none, or none that the neuron can stand for.
    """
    for node in model.graph.nodes:
        if node.outputs and node.outputs[0].name == neuron.name and node.inputs:
            above = editing.is_dialect(node, dialect.CLIP_ABOVE)
            shape = node.inputs[0].shape
            if (
                shape is not None
                and _fits(shape, neuron)
                and (neuron.baseline is not None) == above
            ):
                return node
    raise ModelError(
        f"writes no activation '{neuron.name}'",
        where=model.name,
        remedy="give the ANN that the SNN was converted from",
    )


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


def check_fed(model: Model, data: Dataset) -> None:
    """`check_sizes`, where the data decides sizes that the inputs leave open.

    Args:
        model: any stage before the spikes; it stays as it is.
        data: its first sample is read; a generator is left alone.

    Raises:
        ModelError: a size is zero.
    """
    sizes = [size for tensor in model.graph.inputs for size in (tensor.shape or ())[1:]]
    if data.samples is None or all(isinstance(size, int) for size in sizes):
        return
    feeds = next(data.batches(1)).feeds
    fed = copied(model)
    for tensor in fed.graph.inputs:
        if tensor.shape:
            tensor.shape = [tensor.shape[0], *feeds[tensor.name].shape[1:]]
    infer_shapes(fed)
    check_sizes(fed)


def _check_axes(model: Model, neuron: Neuron, node: gs.Node, kind: TimeType) -> None:
    shape = node.inputs[0].shape
    if kind.batch_axis != neuron.batch_axis or shape is None or not _fits(shape, neuron):
        raise _unfit(model, f"neuron '{neuron.name}' has other axes or channels")


def _fits(shape: Sequence[int | str | None], neuron: Neuron) -> bool:
    """Can a tensor of this shape be the neuron's current?"""
    if neuron.batch_axis >= len(shape) or (neuron.channel_axis or 0) >= len(shape):
        return False
    size = shape[neuron.channel_axis or 0]
    return neuron.channels in (1, size) or not isinstance(size, int)


def _unfit(model: Model, what: str) -> ModelError:
    return ModelError(
        f"graphpass metadata and graph do not fit together ({what})",
        where=model.name,
        remedy="convert the ANN again",
    )
