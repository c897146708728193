"""How much of what an activation rounds reaches the output.

Each activation alone is rounded in the ANN, to steps of its own size. What that changes at the
output differs by two orders of magnitude between layers: the first one, and those with few
channels, weigh most. Neither firing rates nor the error of a layer itself foretell it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass import populations
from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring, count
from graphpass.calibration.reference import spell_clips
from graphpass.model import Model, copied, to_proto
from graphpass.passes.spread_skips import SpreadSkips
from graphpass.timeflow import TimeFlow
from graphpass_runtime.output_error import energy, squared_error

# E[y^2] / E[y] is a scale of the positive values, however few they are: of half a normal
# distribution 1.25 standard deviations, whose best steps are about half of that at T = 4.
_STEP = 0.5
_SAMPLES = (1, 16)  # that each activation is rounded on: at least, and at most
_NONE = 2.0**-60  # rounding to a power of two so small changes nothing


def measure_sensitivities(
    model: Model, names: Collection[str], flow: TimeFlow, measuring: Measuring
) -> dict[str, float]:
    """Squared error of the outputs with one activation rounded, relative to their energy.

    Residual connections stay as they are: they get neurons of their own.

    Args:
        model: stage 1.
        names: the activations that become neurons.
        flow: time types, for the channel axes.
        measuring: data, of which a few samples are read, and how to run a graph.

    Returns:
        By name; empty where the outputs say nothing (they stay as they are, or are not finite).
    """
    if not names:
        return {}
    outputs = [tensor.name for tensor in model.graph.outputs]
    channels = {name: _channels(flow, name) for name in names}
    moments = [key for name in names for key in statistics.moment_names(name)]
    exact = measuring.open_session(_exact_net(model, names, flow))
    rounding = measuring.open_session(_rounding_net(model, channels, flow))
    off = {_gate(name): np.array(False) for name in names}
    off |= {_step(name): np.ones(count, np.float32) for name, count in channels.items()}
    errors, scale = dict.fromkeys(names, 0.0), 0.0
    for feeds in _few(measuring, len(names)):
        closed, found = feeds | off, exact.run(feeds, [*outputs, *moments])
        with np.errstate(over="ignore", invalid="ignore"):  # judged below
            for name in names:
                on = {_gate(name): np.array(True), _step(name): _size(found, name)}
                rounded = rounding.run(closed | on, outputs)
                errors[name] += sum(squared_error(rounded[key], found[key]) for key in outputs)
            scale += sum(energy(found[key]) for key in outputs)
    known = bool(np.isfinite([scale, *errors.values()]).all())
    if not known or scale == 0.0 or max(errors.values()) == 0.0:
        return {}
    return {name: error / scale for name, error in errors.items()}


def _few(measuring: Measuring, layers: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches of so few samples that all runs together cost about a sixth of a pass."""
    fewest, most = _SAMPLES
    known, data = measuring.data.samples, measuring.data
    left = most if known is None else min(most, max(fewest, known // (6 * layers)))
    if not measuring.batch_fixed:
        data = data.thinned(left)
    advance = measuring.progress("measuring sensitivities", left)
    for step in data.batches(measuring.batch):
        yield step.feeds
        advance(min(left, count(step.feeds)))
        left -= count(step.feeds)
        if left <= 0:
            return


def _step(name: str) -> str:
    return f"{name}/rounding_step"


def _gate(name: str) -> str:
    return f"{name}/is_rounded"


def _channels(flow: TimeFlow, name: str) -> int:
    axis = flow.types[name].channel_axis
    return 1 if axis is None else int(flow.shapes[name][axis])


def _size(found: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    mean, square = statistics.moments_in(found, name)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        size = np.float32(_STEP) * square / mean
    return np.where(np.isfinite(size) & (size > 0.0), size, np.float32(_NONE)).astype(np.float32)


def _exact_net(model: Model, names: Collection[str], flow: TimeFlow) -> onnx.ModelProto:
    """Stage 1, and the moments of every activation."""
    proto = to_proto(model)
    spell_clips(proto, model.opset)
    nodes = [
        node
        for name in names
        for node in statistics.moments(
            *(proto, name, name),
            rank=len(flow.shapes[name]),
            channel_axis=flow.types[name].channel_axis,
            opset=model.opset,
        )
    ]
    statistics.weave(proto, nodes)
    return proto


def _rounding_net(model: Model, channels: Mapping[str, int], flow: TimeFlow) -> onnx.ModelProto:
    """Stage 1 with fed sizes of steps, and gates: only what is to be rounded is."""
    apart = copied(model)
    SpreadSkips([populations.skip_name(name) for name in channels], channels)(apart)
    proto = to_proto(apart)
    spell_clips(proto, model.opset)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        name = node.output[0] if node.output else ""
        nodes.append(node)
        if name in channels:
            node.output[0] = f"{name}/exact"
            nodes.append(_gated(name, len(flow.shapes[name]), flow.types[name].channel_axis))
            statistics.add_input(proto, _step(name), channels[name])
            gate = helper.make_tensor_value_info(_gate(name), onnx.TensorProto.BOOL, [])
            proto.graph.input.append(gate)
    statistics.replace_nodes(proto, nodes)
    return proto


def _gated(name: str, rank: int, channel_axis: int | None) -> onnx.NodeProto:
    """Floor(y / step + 1/2) step behind an open gate, y behind a closed one.

    A branch, since rounding every activation each time would take longer than the net does.
    """
    exact, step, half = f"{name}/exact", f"{_step(name)}/shaped", f"{name}/half"
    rounded = [
        *statistics.shaped(_step(name), step, rank=rank, channel_axis=channel_axis),
        statistics.constant(half, np.array(0.5, np.float32)),
        helper.make_node("Div", [exact, step], [f"{name}/steps"]),
        helper.make_node("Add", [f"{name}/steps", half], [f"{name}/risen"]),
        helper.make_node("Floor", [f"{name}/risen"], [f"{name}/whole"]),
        helper.make_node("Mul", [f"{name}/whole", step], [f"{name}/rounded"]),
    ]
    kept = [helper.make_node("Identity", [exact], [f"{name}/kept"])]
    return helper.make_node(
        *("If", [_gate(name)], [name]),
        then_branch=_branch("rounded", rounded),
        else_branch=_branch("kept", kept),
    )


def _branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    (output,) = nodes[-1].output
    value = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [value])
