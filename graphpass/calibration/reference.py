"""The net that neurons are to match, rebuilt from stage 2."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from graphpass import dialect, large_weights
from graphpass.calibration import statistics
from graphpass.model import Model, to_proto
from graphpass.neurons import Neuron
from graphpass.verdicts import recorded_verdicts

_CLIP_INPUTS = 11  # the opset from which on Clip's bounds are inputs


def neurons_of(model: Model) -> dict[str, Neuron]:
    """The neurons of stage 2, by name, in topological order."""
    assert model.record is not None, "stage 2 has neurons"
    return {neuron.name: neuron for neuron in model.record.neurons}


def unbounded_of(model: Model) -> frozenset[str]:
    """The neurons of stage 2 whose bound was measured: those of no Clip and no quantiser."""
    clips = {verdict.name for verdict in recorded_verdicts(model) if verdict.operator == "Clip"}
    return frozenset(
        name
        for name, neuron in neurons_of(model).items()
        if name not in clips and neuron.trained_levels is None
    )


def ranks_of(model: Model) -> dict[str, int]:
    """Rank of every tensor."""
    return {name: len(tensor.shape or []) for name, tensor in model.graph.tensors().items()}


def reference_net(model: Model, neurons: Mapping[str, Neuron]) -> onnx.ModelProto:
    """Stage 2 with each DA-QCFS turned back into what it stands for.

    That is Clip(z, 0, theta), or QCFS at the levels that the layer was trained with.
    """
    proto = to_proto(model)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        neuron = (
            neurons.get(node.output[0]) if dialect.family(node.op_type) == dialect.DAQCFS else None
        )
        if neuron is not None:
            node.op_type = dialect.CLIP_RELU
            del node.input[2:], node.output[1:]
            if neuron.trained_levels is not None:
                levels = np.array(neuron.trained_levels, np.float32)
                node.op_type = dialect.with_ties(dialect.QCFS, neuron.ties)
                node.input.append(f"{neuron.name}/trained_levels")
                nodes.append(statistics.constant(node.input[2], levels))
        nodes.append(node)
    statistics.replace_nodes(proto, nodes)
    spell_clips(proto, model.opset)
    del proto.functions[:]
    used = {node.op_type for node in proto.graph.node if node.domain == dialect.DOMAIN}
    proto.functions.extend(dialect.functions(used, model.opset))
    return proto


def spell_clips(proto: onnx.ModelProto, opset: int) -> None:
    """ONNX's own Clip where one threshold serves all channels: it can be fused with a layer."""
    if opset < _CLIP_INPUTS:
        return
    constants = {constant.name: constant for constant in proto.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.domain == dialect.DOMAIN and node.op_type == dialect.CLIP_RELU:
            nodes += _as_clip(node, large_weights.array_of(constants[node.input[1]]))
        nodes.append(node)
    statistics.replace_nodes(proto, nodes)


def _as_clip(node: onnx.NodeProto, threshold: NDArray[np.float32]) -> list[onnx.NodeProto]:
    if np.ptp(threshold) > 0:
        return []
    bounds = {f"{node.output[0]}/lowest": 0.0, f"{node.output[0]}/highest": threshold.flat[0]}
    node.op_type, node.domain, node.input[1:] = "Clip", "", list(bounds)
    return [statistics.constant(key, np.array(v, np.float32)) for key, v in bounds.items()]


def currents_of(proto: onnx.ModelProto, neurons: Mapping[str, Neuron]) -> dict[str, str]:
    """Neuron name -> the tensor that holds its current."""
    return {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.output and node.output[0] in neurons
    }
