"""Matching the currents of the spiking net to those of the reference, in one run.

At every neuron the graph takes the batch's own mean and spread of the current, matches them
at once to what the reference has on the same batch, and goes on, like a
BatchNormalization in training mode. So each layer is corrected behind corrected layers.
Correcting all of them from the statistics of one pass would over-correct: each layer's error
contains its predecessors'. Matching to averages over all batches instead would take away
what distinguishes this batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass import dialect
from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.moments import Moments, MomentSums, RawMoments, Vector
from graphpass.calibration.reference import currents_of, ranks_of
from graphpass.calibration.sampling import first_readers, sample, sample_name
from graphpass.model import Model, to_proto
from graphpass.neurons import Neuron

_LARGEST_GAIN = 2.0  # a spread that differs by more is no rounding of the same signal
_TINY = 1e-12


def gain(wanted: Moments, own: Moments) -> Vector:
    """Factor that gives a current the spread that is wanted, within limits."""
    with np.errstate(invalid="ignore"):  # of spreads that are not known
        factor = (wanted.spread + _TINY) / (own.spread + _TINY)
    return np.clip(factor, 1.0 / _LARGEST_GAIN, _LARGEST_GAIN)


def matched(neuron: Neuron, wanted: Moments, own: Moments) -> Neuron:
    """Fold z' = gain (z - own mean) + wanted mean into threshold and shift.

    T (z' ) / theta = T (z + wanted/gain - mean) / (theta/gain).
    """
    factor = gain(wanted, own)
    threshold = (neuron.threshold / factor).astype(np.float32)
    shift = (wanted.mean / factor - own.mean).astype(np.float32)
    # Currents whose squares overflow float32 have no spread to match.
    known = np.isfinite(threshold) & np.isfinite(shift)
    return replace(
        neuron,
        threshold=np.where(known, threshold, neuron.threshold),
        shift=np.where(known, shift, np.float32(0)),
    )


class Matcher:
    """The calibration graph and a session on it; parameters are fed, statistics come back."""

    def __init__(self, model: Model, neurons: Mapping[str, Neuron], measuring: Measuring) -> None:
        self._outputs = [tensor.name for tensor in model.graph.outputs]
        net, self._readers = _matching_net(model, neurons)
        self._session = measuring.open_session(net)

    def run(
        self,
        neurons: Mapping[str, Neuron],
        feeds: Mapping[str, NDArray[Any]],
        wanted: RawMoments,
    ) -> tuple[list[NDArray[Any]], RawMoments]:
        """Run a batch with what the reference had on it.

        Returns:
            The outputs of the net, and the moments of its own currents behind matched layers.
        """
        firsts = dict.fromkeys(self._readers[name] for name in neurons)
        names = [key for name in firsts for key in statistics.moment_names(name)]
        fed = {**feeds, **self._parameters(neurons, wanted)}
        found = self._session.run(fed, [*self._outputs, *names])
        own = {name: statistics.moments_in(found, self._readers[name]) for name in neurons}
        return [found[name] for name in self._outputs], own

    def _parameters(
        self, neurons: Mapping[str, Neuron], moments: RawMoments
    ) -> dict[str, NDArray[np.float32]]:
        fed = {}
        for name, neuron in neurons.items():
            total = MomentSums()
            total.add(*moments[name])
            wanted = total.moments()
            values: tuple[NDArray[Any], ...] = (
                neuron.threshold,
                neuron.amplitude,
                wanted.mean,
                wanted.spread,
            )
            for key, array in zip(_inputs(name), values, strict=True):
                fed[key] = array.astype(np.float32)
        return fed


def _matching_net(
    model: Model, neurons: Mapping[str, Neuron]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The net, and `first_readers`: the moments that it gives are theirs."""
    proto, ranks = to_proto(model), ranks_of(model)
    readers = first_readers(proto, neurons, currents_of(proto, neurons))
    nodes: list[onnx.NodeProto] = []
    for node in list(proto.graph.node):
        if dialect.family(node.op_type) == dialect.DAQCFS and node.domain == dialect.DOMAIN:
            neuron = neurons[node.output[0]]
            first = readers[neuron.name]
            if first == neuron.name:
                nodes += _moments(model, proto, node.input[0], neuron, ranks[neuron.name])
            nodes += _matched(node, neuron, ranks[neuron.name], first)
            for name in _inputs(neuron.name):
                statistics.add_input(proto, name, neuron.channels)
        nodes.append(node)
    statistics.replace_nodes(proto, nodes)
    return proto, readers


def _moments(
    model: Model, proto: onnx.ModelProto, current: str, neuron: Neuron, rank: int
) -> list[onnx.NodeProto]:
    name, axis = neuron.name, neuron.channel_axis
    return sample(model, proto, neuron, current) + statistics.moments(
        *(proto, sample_name(name), name), rank=rank, channel_axis=axis, opset=model.opset
    )


def _matched(
    node: onnx.NodeProto, neuron: Neuron, rank: int, measured: str
) -> list[onnx.NodeProto]:
    """A DA-QCFS with fed parameters that matches its current to the reference: `matched`.

    The moments of the current are those of the neuron `measured`.
    """
    name, axis = neuron.name, neuron.channel_axis
    threshold, amplitude, wanted_mean, wanted_spread = _inputs(name)
    mean, square = statistics.moment_names(measured)
    nodes: list[onnx.NodeProto] = []

    def step(op: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}/{output}"]))
        return f"{name}/{output}"

    def number(key: str, value: float) -> str:
        nodes.append(statistics.constant(f"{name}/{key}", np.array(value, np.float32)))
        return f"{name}/{key}"

    variance = step("Sub", [square, step("Mul", [mean, mean], "mean_squared")], "variance")
    spread = step("Sqrt", [step("Max", [variance, number("tiny", _TINY)], "positive")], "spread")
    ratio = step("Div", [wanted_spread, spread], "ratio")
    low, high = number("low", 1.0 / _LARGEST_GAIN), number("high", _LARGEST_GAIN)
    factor = step("Min", [step("Max", [ratio, low], "above"), high], "gain")
    # All in the parameters, none in the current: a product and a sum less per element.
    own = step("Div", [threshold, factor], "own_threshold")
    shift = step("Sub", [step("Div", [wanted_mean, factor], "wanted"), mean], "own_shift")
    for place, vector in ((1, own), (2, shift), (3, amplitude)):
        nodes += statistics.shaped(vector, f"{vector}/shaped", rank=rank, channel_axis=axis)
        node.input[place] = f"{vector}/shaped"
    return nodes


def _inputs(name: str) -> tuple[str, str, str, str]:
    keys = ("threshold", "amplitude", "mean", "spread")
    return tuple(f"{name}/wanted_{key}" for key in keys)  # type: ignore[return-value]
