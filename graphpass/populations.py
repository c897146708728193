"""Populations: K neurons that share a current, in the place of one.

Their initial potentials lie 1/K of a threshold apart, so that they fire one after the other
as the current grows, and together count K times as many levels as one of them (Hermite's
identity, with v = T (z + shift) / threshold + 1/(2K))::

    Floor(K v) = Floor(v) + Floor(v + 1/K) + ... + Floor(v + (K - 1)/K)

Up to stage 3, and wherever counts travel, a population is one layer of K T levels; its
neurons stand apart where spikes do. Both are the same network.

What skips layers is where that pays first: such a connection carries a value to one other
neuron, so that its spikes set off next to no work; and what it rounds off is rounded again at
every block, and adds up. `population_choice` says where else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graphpass.neurons import Neuron

_SKIP = "/skip"


def skip_name(activation: str) -> str:
    """What the population is called that skips layers beside an activation's neuron."""
    return f"{activation}{_SKIP}"


def member_names(population: str, members: int) -> list[str]:
    """What the neurons of a population are called."""
    return [f"{population}/{member}" for member in range(1, members + 1)]


def apart(neuron: Neuron) -> list[Neuron]:
    """The neurons of a population, each a layer."""
    return [
        replace(
            neuron,
            name=name,
            shift=neuron.shift + _lead(neuron, index),
            levels=neuron.firing_steps,
            member=index + 1,
        )
        for index, name in enumerate(member_names(neuron.name, neuron.members))
    ]


def joined(neurons: Iterable[Neuron]) -> tuple[Neuron, ...]:
    """Layers, each population as one."""
    result: dict[str, Neuron] = {}
    for neuron in neurons:
        # The shift of the one in the middle needs no rounding.
        if not neuron.member or neuron.member == (neuron.members + 1) // 2:
            result[neuron.population] = _whole(neuron) if neuron.member else neuron
        else:
            result.setdefault(neuron.population, neuron)  # its place in the order
    return tuple(result.values())


def joined_counts(
    neurons: Iterable[Neuron], counts: Mapping[str, NDArray[np.int32]]
) -> dict[str, NDArray[np.int32]]:
    """Spike counts of layers, those of a population summed.

    Args:
        neurons: the layers, populations apart or not.
        counts: by their names.
    """
    result: dict[str, NDArray[np.int32]] = {}
    for neuron in neurons:
        own, key = counts[neuron.name], neuron.population
        result[key] = result[key] + own if key in result else own
    return result


def joined_potentials(
    neurons: Iterable[Neuron], potentials: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Membrane potentials in thresholds, 1/2 included; of a population, in its K T levels."""
    result: dict[str, NDArray[np.float32]] = {}
    for neuron in neurons:
        own, key = potentials[neuron.name], neuron.population
        if neuron.member:
            own = own - np.float32(0.5 - 0.5 / neuron.members)
        result[key] = result[key] + own if key in result else own
    return result


def counts_apart(
    neurons: Iterable[Neuron], counts: Mapping[str, NDArray[np.int32]]
) -> dict[str, NDArray[np.int32]]:
    """How often each neuron fires, of counts of whole populations."""
    return {
        neuron.name: (counts[neuron.population] + neuron.member - 1) // neuron.members
        if neuron.member
        else counts[neuron.name]
        for neuron in neurons
    }


def _whole(member: Neuron) -> Neuron:
    return replace(
        member,
        name=member.population,
        shift=member.shift - _lead(member, member.member - 1),
        levels=member.levels * member.members,
        member=0,
    )


def _lead(neuron: Neuron, index: int) -> NDArray[np.float32]:
    """How much earlier a neuron fires than the middle of its population, in currents."""
    share = (index + 0.5) / neuron.members - 0.5
    return np.float32(share) * neuron.threshold / np.float32(neuron.firing_steps)
