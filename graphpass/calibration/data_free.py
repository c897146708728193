"""Thresholds, amplitudes and shifts without any data, from the moments of the currents.

1. `moment_graph` has the mean and spread of every current, from what BatchNormalization
   tells; currents are taken to be normal.
2. Threshold and amplitude are those of least squared error (`threshold_rules`), on the
   histogram of the normal distribution.
3. Rounding to T levels changes mean and spread of a neuron's output, also in closed form.
   Both are sent through the network once with the neurons' true moments and once with
   those of the rounded outputs: the difference of the means, and the ratio of the spreads,
   are what the neurons behind are corrected by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass.calibration import matching, moment_graph, normal, statistics, threshold_rules
from graphpass.calibration.histogram import MIDDLES, Histogram
from graphpass.calibration.moment_graph import Known
from graphpass.calibration.moments import Moments, Vector
from graphpass.calibration.reference import neurons_of
from graphpass.model import Model, to_proto
from graphpass.neurons import Neuron
from graphpass.running import OpenSession
from graphpass.timeflow import TimeFlow

_TINY = np.finfo(np.float64).tiny


def largest_currents(
    model: Model, names: Collection[str], flow: TimeFlow, open_session: OpenSession
) -> dict[str, NDArray[np.float32]]:
    """What currents hardly ever exceed: so many standard deviations above their means.

    Args:
        model: stage 0.
        names: the Relus to bound.
        flow: time types, for the channel axes.
        open_session: runs a graph, as `graphpass.running.open_session`.

    Raises:
        ModelError: the moments of a current cannot be had.
    """
    axes = {name: flow.types[name].channel_axis for name in names}
    found = moment_graph.currents(model, axes, moment_graph.recorded(model), open_session)
    return {
        name: np.maximum(moments.mean + normal.REACH * moments.spread, 0.0).astype(np.float32)
        for name, moments in found.items()
    }


def calibrate(model: Model, open_session: OpenSession) -> tuple[tuple[Neuron, ...], dict[str, Any]]:
    """Find threshold, shift and amplitude of every neuron.

    Args:
        model: stage 2.
        open_session: runs a graph, as `graphpass.running.open_session`.

    Returns:
        The neurons, and a summary in plain JSON values.

    Raises:
        ModelError: the moments of a current cannot be had.
    """
    neurons = neurons_of(model)
    recorded = moment_graph.recorded(model)
    axes = {name: neuron.channel_axis for name, neuron in neurons.items()}
    currents = moment_graph.currents(model, axes, recorded, open_session)
    exact, rounded, found = {}, {}, {}
    for name, neuron in neurons.items():
        histogram = normal.histogram(currents[name], neuron.threshold)
        share = threshold_rules.squared_error(histogram, neuron.levels)
        amplitude = threshold_rules.amplitude(histogram, share, neuron.levels)
        exact[name], rounded[name] = _outputs(histogram, share, amplitude, neuron.levels)
        threshold = (share * histogram.bound).astype(np.float32)
        found[name] = replace(neuron, threshold=threshold, amplitude=amplitude.astype(np.float32))
    ahead = _ahead_of_neurons(model, recorded, neurons)
    wanted, own = (
        moment_graph.currents(model, axes, ahead | _read_from(model, found, moments), open_session)
        for moments in (exact, rounded)
    )
    return tuple(
        matching.matched(neuron, currents[name], _own(currents[name], wanted[name], own[name]))
        for name, neuron in found.items()
    ), {"threshold": "gaussian", "samples": 0, "passes": 0}


def _own(current: Moments, wanted: Moments, own: Moments) -> Moments:
    """Moments that the current will have when those sent through change from `wanted` to `own`."""
    change = own.spread / np.maximum(wanted.spread, _TINY)
    return Moments(
        current.mean + own.mean - wanted.mean,
        current.spread * np.where(wanted.spread > 0, change, 1.0),
    )


def _outputs(
    histogram: Histogram, share: Vector, amplitude: Vector, levels: int
) -> tuple[Moments, Moments]:
    """Moments of max(z, 0), and of amplitude * count, for the distribution of z."""
    counts = threshold_rules.spike_counts(MIDDLES, levels, share[:, None])
    probabilities = histogram.counts / normal.MASS
    results = []
    for outputs in (MIDDLES * histogram.bound[:, None], counts * amplitude[:, None]):
        mean = (probabilities * outputs).sum(axis=1)
        variance = (probabilities * outputs**2).sum(axis=1) - mean**2
        results.append(Moments(mean, np.sqrt(np.maximum(variance, 0.0))))
    return results[0], results[1]


def _read_from(
    model: Model, neurons: Mapping[str, Neuron], outputs: Mapping[str, Moments]
) -> dict[str, Known]:
    """Moments of outputs under the names that they are read by: pooled, behind a MaxPool."""
    proto = to_proto(model)
    known = {}
    for name, moments in outputs.items():
        pool = statistics.pool_behind(proto, name)
        tensor = name if pool is None else str(pool.output[0])
        known[tensor] = Known(moments, neurons[name].channel_axis)
    return known


def _ahead_of_neurons(
    model: Model, recorded: Mapping[str, Known], neurons: Collection[str]
) -> dict[str, Known]:
    """Moments of what does not depend on a neuron: the inputs, and some that are recorded.

    They are the same before and after rounding, so that zero will do for the inputs.
    """
    behind = set(neurons)
    for node in model.graph.nodes:
        if any(tensor.name in behind for tensor in node.inputs):
            behind.update(tensor.name for tensor in node.outputs)
    nothing = Known(Moments(np.zeros(1), np.zeros(1)), None)
    ahead = {tensor.name: nothing for tensor in model.graph.inputs}
    return ahead | {name: known for name, known in recorded.items() if name not in behind}
