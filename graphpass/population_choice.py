"""Where several neurons share each value: where that helps most for what it costs.

What rounding costs at the output, and what a spike sets off, both differ between layers by
orders of magnitude. Over connections that skip layers spikes set off next to nothing: these
always get populations. The others share a quarter more work for each neuron that a value may
have beyond the first: larger populations would not help where most layers can have none.
The squared error of rounding is proportional to 1/n^2 for n neurons, so that a second one
removes 3/4 of it, a third one 5/36.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping

import onnx_graphsurgeon as gs

from graphpass import dialect, editing, populations
from graphpass.fanout import known_work
from graphpass.model import Model
from graphpass.passes.spread_skips import find_skipping

# Synaptic operations that each further neuron for a value may add, as a share of those with one.
# On images that were not calibrated on, half as much work again (three neurons) took a quarter
# to two fifths off the squared error of the output that a fifth more had left.
_MORE = 0.25
_LARGEST_COUNT = 129  # of a population: in `int8`, larger ones meet coarser weights


def choose_populations(
    model: Model,
    spiking: Collection[str],
    firing_steps: Callable[[str], int],
    most: int,
    sensitivities: Callable[[], Mapping[str, float]],
) -> dict[str, int]:
    """The layers that are to be populations.

    Args:
        model: stage 1.
        spiking: the activations that become neurons.
        firing_steps: T of each, by name.
        most: neurons for each value.
        sensitivities: tell how much of what each rounds reaches the output
            (`graphpass.calibration.sensitivity`); alike, where nothing is known. Asked only
            where there is something to choose.

    Returns:
        Name of the activation, or of its skip (`populations.skip_name`) -> number of neurons,
        from 2 on.
    """
    sizes = {
        name: _size(node, firing_steps(name), most)
        for node in model.graph.nodes
        if node.outputs and (name := node.outputs[0].name) in spiking
    }
    if max(sizes.values(), default=1) == 1:
        return {}
    skips = find_skipping(model, sizes)
    chosen = {populations.skip_name(name): sizes[name] for name in skips}
    work = known_work(model, sizes)
    room = _MORE * (most - 1) * sum(work.values())
    chosen |= _affordable(work, sizes, sensitivities(), room)
    taken = model.graph.tensors()
    return {
        name: size
        for name, size in chosen.items()
        if size > 1 and taken.keys().isdisjoint(populations.member_names(name, size))
    }


def _affordable(
    work: Mapping[str, int],
    sizes: Mapping[str, int],
    sensitivities: Mapping[str, float],
    room: float,
) -> dict[str, int]:
    """The neurons that there is room for, at most these sizes."""
    neurons, left = dict.fromkeys(work, 1), room

    def offer(name: str) -> tuple[float, str]:
        """What the squared error falls by, for the work of one neuron more; smaller is better."""
        count = neurons[name]
        removed = sensitivities.get(name, 1.0) * (1 / count**2 - 1 / (count + 1) ** 2)
        return -removed / max(1, work[name]), name

    waiting = [offer(name) for name in work]
    heapq.heapify(waiting)
    while waiting:
        _, name = heapq.heappop(waiting)
        if neurons[name] < sizes[name] and work[name] <= left:
            left -= work[name]
            neurons[name] += 1
            heapq.heappush(waiting, offer(name))
    return neurons


def _size(node: gs.Node, steps: int, most: int) -> int:
    """Quantisers need no more levels than they were trained with."""
    size = max(1, min(most, _LARGEST_COUNT // steps))
    trained = editing.scalar(node.inputs[2]) if editing.is_dialect(node, dialect.QCFS) else None
    if trained is not None and 1 <= trained <= size * steps:
        return math.ceil(trained / steps)
    return size
