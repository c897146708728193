"""One pass of the reference net: what every neuron's current looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass.calibration import statistics
from graphpass.calibration.histogram import Histogram
from graphpass.calibration.matching import RawMoments, Trial
from graphpass.calibration.measuring import Measuring, count
from graphpass.calibration.moments import Moments, MomentSums
from graphpass.calibration.reference import (
    currents_of,
    neurons_of,
    ranks_of,
    reference_net,
)
from graphpass.model import Model
from graphpass.neurons import Neuron

_POSITIONS = 64  # positions per image and channel that go into a histogram
_PAIRED = 32  # batches whose moments are kept: memory does not grow with the data


@dataclass
class Recording:
    """What one pass of the reference net gave.

    Attributes:
        neurons: the neurons of stage 2.
        histograms: distribution of each current's positive part.
        paired: moments of every current on some batches, by the batch's number.
        trials: the first of these batches, with the reference's outputs.
        kept: samples in the trials.
        samples: samples in all.
    """

    neurons: dict[str, Neuron]
    histograms: dict[str, Histogram]
    paired: dict[int, RawMoments] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    kept: int = 0
    samples: int = 0

    def moments(self, name: str) -> Moments:
        """Of a neuron's current, over the paired batches."""
        sums = MomentSums()
        for found in self.paired.values():
            sums.add(*found[name])
        return sums.moments()


def record(model: Model, measuring: Measuring, keep: int) -> Recording:
    """Run the reference net once over the data.

    Args:
        model: stage 2.
        measuring: data, and how to run a graph.
        keep: about so many samples are kept as trials.
    """
    neurons = neurons_of(model)
    outputs = [tensor.name for tensor in model.graph.outputs]
    session = measuring.open_session(_recording_net(model, neurons).SerializeToString())
    names = [name for n in neurons for name in (_sample(n), *statistics.moment_names(n))]
    result = Recording(
        neurons, {n: Histogram.empty(neuron.threshold) for n, neuron in neurons.items()}
    )
    stride = _stride(measuring.data.samples, measuring.batch)
    for index, feeds in enumerate(measuring.batches("recording currents")):
        found = session.run(feeds, [*outputs, *names])
        for name, neuron in neurons.items():
            histogram = result.histograms[name]
            result.histograms[name] = histogram.add(found[_sample(name)], neuron.channel_axis)
        if index % stride == 0 and len(result.paired) < _PAIRED:
            moments = {n: _pair(found, n) for n in neurons}
            result.paired[index] = moments
            if result.kept < keep:
                trial = Trial(feeds, [found[key] for key in outputs], moments)
                result.trials.append(trial)
                result.kept += count(feeds)
        result.samples += count(feeds)
    return result


def _pair(found: dict[str, NDArray[Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    mean, square = statistics.moment_names(name)
    return found[mean], found[square]


def _stride(samples: int | None, batch: int) -> int:
    """Every how many batches one is kept."""
    return 1 if samples is None else max(1, math.ceil(samples / batch) // _PAIRED)


def _recording_net(model: Model, neurons: dict[str, Neuron]) -> onnx.ModelProto:
    proto, ranks = reference_net(model, neurons), ranks_of(model)
    shapes = {name: list(t.shape or []) for name, t in model.graph.tensors().items()}
    nodes: list[onnx.NodeProto] = []
    for name, current in currents_of(proto, neurons).items():
        neuron = neurons[name]
        pooled, pools = statistics.pooled_like(proto, name, current)
        nodes += pools
        nodes += statistics.moments(
            pooled,
            name,
            rank=ranks[name],
            channel_axis=neuron.channel_axis,
            opset=model.opset,
        )
        pool = statistics.pool_behind(proto, name)
        shape = shapes[name if pool is None else pool.output[0]]
        nodes += _subsample(pooled, _sample(name), shape, neuron.channel_axis)
        for output in statistics.moment_names(name):
            statistics.add_output(proto, output)
        proto.graph.output.append(
            helper.make_tensor_value_info(
                _sample(name), onnx.TensorProto.FLOAT, [None] * ranks[name]
            )
        )
    statistics.weave(proto, nodes)
    return proto


def _subsample(
    tensor: str, output: str, shape: list[Any], channel_axis: int | None
) -> list[onnx.NodeProto]:
    """Every k-th position along the axes behind the channels."""
    first = 1 if channel_axis is None else channel_axis + 1
    sizes = shape[first:]
    axes = [first + i for i, size in enumerate(sizes) if isinstance(size, int) and size > 1]
    positions = math.prod(shape[axis] for axis in axes)
    if positions <= _POSITIONS:
        return [helper.make_node("Identity", [tensor], [output])]
    stride = math.ceil((positions / _POSITIONS) ** (1 / len(axes)))
    nodes, current = [], tensor
    for axis in axes:
        picked = np.arange(stride // 2, shape[axis], stride, dtype=np.int64)
        following = output if axis == axes[-1] else f"{output}/{axis}"
        nodes += [
            statistics.constant(f"{output}/{axis}/positions", picked),
            helper.make_node(
                "Gather", [current, f"{output}/{axis}/positions"], [following], axis=axis
            ),
        ]
        current = following
    return nodes


def _sample(name: str) -> str:
    return f"{name}/sample"
