"""The paper's calibration (Hao et al., ICML 2025, Algorithm 1): running means.

For each batch, in order, at every neuron layer, with momentum 0.99::

    e_pre    = mean(z_ref - z)              the current, before psi_DA is added
    psi_DA  <- 0.99 psi_DA + 0.01 e_pre     used at once for this batch
    y        = DA-QCFS(z; psi_DA, phi)
    e_post   = mean(y_ref - y)
    phi     <- 0.99 phi + 0.01 e_post

per channel, means over batch and space. The reference is Clip(z, 0, theta), or QCFS at
the trained levels. The result depends on the batch size and on the number of passes, and
starts at zero: k batches recover 1 - 0.99^k of a constant error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass import dialect
from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.reference import (
    currents_of,
    neurons_of,
    ranks_of,
    reference_net,
)
from graphpass.model import Model, to_proto
from graphpass.neurons import Neuron

MOMENTUM = 0.99

_State = dict[str, NDArray[np.float32]]


def recovered(batches: int) -> float:
    """Share of a constant error that this many batches correct."""
    return 1.0 - MOMENTUM**batches


def calibrate(model: Model, measuring: Measuring) -> tuple[tuple[Neuron, ...], dict[str, Any]]:
    """Find shift and amplitude of every neuron.

    Args:
        model: stage 2.
        measuring: data, passes, and how to run a graph; a smaller last batch counts like
            the others.

    Returns:
        The neurons with shift = psi_DA and amplitude = (theta + phi)/T, and a summary in
        plain JSON values.
    """
    neurons, ranks = neurons_of(model), ranks_of(model)
    wanted = measuring.open_session(_reference_graph(model, neurons, ranks))
    running = measuring.open_session(_candidate_graph(model, neurons, ranks))
    state: _State = {}
    for neuron in neurons.values():
        state |= {_psi(neuron): np.zeros(neuron.channels, np.float32)}
        state |= {_phi(neuron): np.zeros(neuron.channels, np.float32)}
    means = [output for n in neurons.values() for output in (_mean_z(n), _mean_y(n))]
    batches = 0
    for feeds in measuring.batches("calibrating", measuring.passes):
        targets = wanted.run(feeds, means)
        found = running.run({**feeds, **targets, **state}, [_next(k) for k in state])
        state = {key: found[_next(key)] for key in state}
        batches += 1
    return tuple(_calibrated(neuron, state) for neuron in neurons.values()), {
        "samples": measuring.data.samples,
        "batch": measuring.batch,
        "passes": measuring.passes,
        "batches": batches,
        "recovered": round(recovered(batches), 4),
    }


def _calibrated(neuron: Neuron, state: _State) -> Neuron:
    amplitude = (neuron.threshold + state[_phi(neuron)]) / np.float32(neuron.levels)
    return replace(neuron, shift=state[_psi(neuron)], amplitude=amplitude.astype(np.float32))


def _reference_graph(
    model: Model, neurons: dict[str, Neuron], ranks: dict[str, int]
) -> onnx.ModelProto:
    """The reference with mean current and mean output of every neuron as outputs."""
    proto = reference_net(model, neurons)
    nodes: list[onnx.NodeProto] = []
    for name, current in currents_of(proto, neurons).items():
        neuron = neurons[name]
        for tensor, mean in ((current, _mean_z(neuron)), (name, _mean_y(neuron))):
            nodes += _mean(tensor, mean, neuron, ranks[name], model.opset)
            statistics.add_output(proto, mean)
    statistics.weave(proto, nodes)
    return proto


def _candidate_graph(
    model: Model, neurons: dict[str, Neuron], ranks: dict[str, int]
) -> onnx.ModelProto:
    """Stage 2 with the update of the running means inside, layer after layer."""
    proto = to_proto(model)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.domain == dialect.DOMAIN and dialect.family(node.op_type) == dialect.DAQCFS:
            neuron = neurons[node.output[0]]
            nodes += _calibrating(node, neuron, ranks[neuron.name], model.opset)
            for name in (_mean_z(neuron), _mean_y(neuron), _psi(neuron), _phi(neuron)):
                statistics.add_input(proto, name, neuron.channels)
            for name in (_psi(neuron), _phi(neuron)):
                statistics.add_output(proto, _next(name))
        else:
            nodes.append(node)
    statistics.replace_nodes(proto, nodes)
    return proto


def _calibrating(
    node: onnx.NodeProto, neuron: Neuron, rank: int, opset: int
) -> list[onnx.NodeProto]:
    """A DA-QCFS node whose shift and amplitude are updated by the batch it sees."""
    axis = neuron.channel_axis
    psi, phi, name = _psi(neuron), _phi(neuron), neuron.name
    amplitude, theta, levels = f"{name}/post", f"{name}/theta", f"{name}/T"
    before = [
        *_mean(node.input[0], f"{name}/z", neuron, rank, opset),
        *_running(_mean_z(neuron), f"{name}/z", psi),
        *statistics.shaped(_next(psi), f"{name}/shift_now", rank=rank, channel_axis=axis),
        statistics.constant(theta, neuron.threshold),
        statistics.constant(levels, np.array(neuron.levels, np.float32)),
        helper.make_node("Add", [theta, phi], [f"{amplitude}/sum"]),
        helper.make_node("Div", [f"{amplitude}/sum", levels], [amplitude]),
        *statistics.shaped(amplitude, f"{name}/amplitude_now", rank=rank, channel_axis=axis),
    ]
    node.input[2], node.input[3] = f"{name}/shift_now", f"{name}/amplitude_now"
    after = [
        *_mean(node.output[0], f"{name}/y", neuron, rank, opset),
        *_running(_mean_y(neuron), f"{name}/y", phi),
    ]
    return [*before, node, *after]


def _mean(tensor: str, output: str, neuron: Neuron, rank: int, opset: int) -> list[onnx.NodeProto]:
    return statistics.reduce_to_channels(
        "ReduceMean", tensor, output, rank=rank, channel_axis=neuron.channel_axis, opset=opset
    )


def _running(wanted: str, found: str, old: str) -> list[onnx.NodeProto]:
    """next(old) = 0.99 old + 0.01 (wanted - found)."""
    error, kept, step = f"{old}/error", f"{old}/kept", f"{old}/step"
    keep, take = f"{old}/keep", f"{old}/take"
    return [
        statistics.constant(keep, np.array(MOMENTUM, np.float32)),
        statistics.constant(take, np.array(1.0 - MOMENTUM, np.float32)),
        helper.make_node("Sub", [wanted, found], [error]),
        helper.make_node("Mul", [old, keep], [kept]),
        helper.make_node("Mul", [error, take], [step]),
        helper.make_node("Add", [kept, step], [_next(old)]),
    ]


def _psi(neuron: Neuron) -> str:
    return f"{neuron.name}/psi"


def _phi(neuron: Neuron) -> str:
    return f"{neuron.name}/phi"


def _mean_z(neuron: Neuron) -> str:
    return f"{neuron.name}/mean_current"


def _mean_y(neuron: Neuron) -> str:
    return f"{neuron.name}/mean_output"


def _next(name: str) -> str:
    return f"{name}/next"
