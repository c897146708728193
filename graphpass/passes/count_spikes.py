"""Stage 4, form `counts`: each DA-QCFS becomes a clamp and a Floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.charging import Charge, charged
from graphpass.model import Model
from graphpass.neurons import Carrier, Neuron, Ties, parameters
from graphpass.passes.base import Pass


class CountSpikes(Pass):
    """DA-QCFS(z) becomes amplitude * SpikeCount(u), u = T (z + shift) / theta + 1/2.

    The gain T/theta and the offset go into what computes z (`charging`), so that all that
    is left of a neuron is n = Floor(Clip(u, 0, T)): the clamp fuses into the convolution
    before it, the Floor is one pass over memory. Clamping first gives the same count,
    because 0 and T are integers. Neurons that round half to even are NearestCounts.
    """

    def __init__(self, *, half_even: bool = False, nearest: bool = False) -> None:
        """Say how the form will round.

        Args:
            half_even: half to even. Where a neuron rounds half up, adding one float32 step at T to
                u lifts an exact tie above the middle, well inside what `verify` calls a
                near tie.
            nearest: neurons read u - 1/2, and n is the nearest whole number.
        """
        self._half_even = half_even
        self._nearest = nearest

    def apply(self, model: Model) -> int:
        """In topological order: a skip connection reads counts that exist already."""
        assert model.record is not None, "neurons live in the record"
        records = {neuron.spikes: neuron for neuron in model.record.neurons}
        nodes = [n for n in model.graph.nodes if editing.is_dialect(n, dialect.DAQCFS)]
        charges: dict[int, Charge] = {}
        for node in nodes:
            key = node.outputs[2].name
            records[key] = replace(records[key], carrier=Carrier.COUNT)
            charges[id(node)] = self._charge(records[key])
        for node in nodes:
            neuron, charge = records[node.outputs[2].name], charges.pop(id(node))
            others = [] if self._nearest else _sharing(model, node, charge, charges)
            _count(model, node, neuron, charge, others)
            for other in others:
                charges[id(other)] = charges[id(other)].after(charge)
            if self._nearest:
                node.op = dialect.NEAREST_COUNT
                node.inputs[0].name = f"{neuron.name}/charge"
        if nodes:
            model.note(neurons=tuple(records.values()))
        return len(nodes)

    def _charge(self, neuron: Neuron) -> Charge:
        middle = 0.0 if self._nearest else neuron.middle
        if self._half_even and neuron.ties is Ties.HALF_UP:
            middle += float(np.spacing(np.float32(neuron.levels)))
        gain = neuron.levels / neuron.threshold.astype(np.float64)
        return Charge(gain, middle + neuron.shift * gain, neuron.channel_axis)


def _sharing(
    model: Model, node: gs.Node, own: Charge, charges: Mapping[int, Charge]
) -> list[gs.Node]:
    """The neurons, of those yet to be charged, that read the same current, if nothing else does.

    What computes it can take the charge of one of them, if the others read its potential.
    """
    current = node.inputs[0]
    others = [reader for reader in current.outputs if reader is not node]
    fit = all(
        id(other) in charges
        and charges[id(other)].axis == own.axis
        and charges[id(other)].gain.shape == own.gain.shape
        for other in others
    )
    return others if fit and not editing.is_output(model, current) else []


def _count(
    model: Model, node: gs.Node, neuron: Neuron, charge: Charge, others: Iterable[gs.Node]
) -> None:
    """Write the potential and the count; `others` read the potential, not the current."""
    source, output = node.inputs[0], node.outputs[0]
    shape = source.shape
    for other in others:  # out of the way: a current that is read once takes the charge
        other.inputs[0] = gs.Variable("")
    potential = charged(model, source, charge)
    potential.name = neuron.potential
    for other in others:
        other.inputs[0] = potential
    spikes = gs.Variable(neuron.spikes, np.dtype(np.float32), shape)
    node.op = dialect.with_ties(dialect.SPIKE_COUNT, neuron.ties)
    node.inputs = [
        potential,
        editing.constant(model, f"{neuron.name}/T", np.array(neuron.levels, np.float32)),
    ]
    node.outputs = [spikes]
    amplitude = parameters.beside(neuron.amplitude, len(shape), neuron.channel_axis)
    model.graph.nodes.append(
        gs.Node(
            "Mul",
            f"{neuron.name}/amplify",
            inputs=[spikes, editing.constant(model, f"{neuron.name}/per_spike", amplitude)],
            outputs=[output],
        )
    )
