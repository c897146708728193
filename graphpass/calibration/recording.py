"""One pass of the reference net: what every neuron's current looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass.calibration import statistics
from graphpass.calibration.histogram import Histogram, Tally
from graphpass.calibration.measuring import Measuring, count
from graphpass.calibration.moments import Moments, RawMoments, averaged
from graphpass.calibration.reference import (
    currents_of,
    neurons_of,
    ranks_of,
    reference_net,
    unbounded_of,
)
from graphpass.calibration.sampling import first_readers, fraction, sample, sample_name
from graphpass.model import Model
from graphpass.neurons import Neuron

# Of at least so many batches, and of batches with at least so many samples, moments are kept,
# where there are so many, and of less than twice as many: neither memory nor matching grow with
# the data.
_PAIRED = 10
_PAIRED_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class Trial:
    """A batch with what the reference made of it."""

    feeds: dict[str, NDArray[Any]]
    outputs: list[NDArray[Any]]


@dataclass
class Recording:
    """What one pass of the reference net gave.

    Attributes:
        neurons: the neurons of stage 2.
        unbounded: the neurons whose thresholds so far are the largest currents recorded, and
            no bound that the network has of its own.
        fractions: share of each neuron's currents that are looked at.
        histograms: distribution of each current's positive part.
        paired: moments of every current on some batches, by the batch's number.
        sizes: samples in each of these.
        trials: the first of these batches, with the reference's outputs.
        samples: samples in all.
    """

    neurons: dict[str, Neuron]
    unbounded: frozenset[str]
    fractions: dict[str, float]
    histograms: dict[str, Histogram]
    paired: dict[int, RawMoments] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    samples: int = 0

    @property
    def has_enough(self) -> bool:
        """Are there twice as many paired batches as there must be, and samples in them?"""
        samples = sum(self.sizes.values())
        return len(self.paired) >= 2 * _PAIRED and samples >= 2 * _PAIRED_SAMPLES

    @property
    def kept(self) -> int:
        """Samples in the trials."""
        return sum(self.sizes[number] for number in self.trials)

    def moments(self) -> dict[str, Moments]:
        """Of every neuron's current, over the paired batches."""
        return averaged(self.paired.values())


def record(model: Model, measuring: Measuring, keep: int) -> Recording:
    """Run the reference net once over the data.

    Args:
        model: stage 2.
        measuring: data, and how to run a graph.
        keep: about so many samples are kept as trials.
    """
    neurons = neurons_of(model)
    outputs = [tensor.name for tensor in model.graph.outputs]
    net, fractions, readers = _recording_net(model, neurons)
    session = measuring.open_session(net)
    firsts = list(dict.fromkeys(readers.values()))
    names = [name for n in firsts for name in (sample_name(n), *statistics.moment_names(n))]
    tallies = {name: Tally(neurons[name].threshold) for name in firsts}
    result = Recording(neurons, unbounded_of(model), fractions, {})
    stride = _stride(measuring.data.samples, measuring.batch)
    for index, feeds in enumerate(measuring.batches("recording currents")):
        found = session.run(feeds, [*outputs, *names])
        for name, tally in tallies.items():
            tally.add(found[sample_name(name)], neurons[name].channel_axis)
        if index % stride == 0 and not result.has_enough:
            moments = {name: statistics.moments_in(found, first) for name, first in readers.items()}
            result.paired[index], result.sizes[index] = moments, count(feeds)
            if result.kept < keep:
                result.trials[index] = Trial(feeds, [found[key] for key in outputs])
        result.samples += count(feeds)
    histograms = {name: tally.histogram() for name, tally in tallies.items()}
    result.histograms |= {name: histograms[first] for name, first in readers.items()}
    return result


def _stride(samples: int | None, batch: int) -> int:
    """Every how many batches one is kept."""
    if samples is None:
        return 1
    return max(1, min(math.ceil(samples / batch) // _PAIRED, samples // _PAIRED_SAMPLES))


def _recording_net(
    model: Model, neurons: dict[str, Neuron]
) -> tuple[onnx.ModelProto, dict[str, float], dict[str, str]]:
    """The net, the share of each neuron's currents that it gives, and `first_readers`."""
    proto, ranks = reference_net(model, neurons), ranks_of(model)
    layers = {output: node for node in proto.graph.node for output in node.output}
    fractions = {name: fraction(model, proto, neuron) for name, neuron in neurons.items()}
    nodes: list[onnx.NodeProto] = []
    currents = currents_of(proto, neurons)
    readers = first_readers(proto, neurons, currents)
    for name in dict.fromkeys(readers.values()):
        current = currents[name]
        neuron, seen = neurons[name], sample_name(name)
        nodes += sample(model, proto, neuron, current, layers.get(current))
        nodes += statistics.moments(
            *(proto, seen, name),
            rank=ranks[name],
            channel_axis=neuron.channel_axis,
            opset=model.opset,
        )
        proto.graph.output.append(
            helper.make_tensor_value_info(seen, onnx.TensorProto.FLOAT, [None] * ranks[name])
        )
    statistics.weave(proto, nodes)
    return proto, fractions, readers
