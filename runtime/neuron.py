"""One layer of spiking neurons, as the record of a file has it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime import plain_json
from graphpass_runtime.plain_json import integer, integer_or_none, vector

LARGEST_T = 1024
LARGEST_POPULATION = 16
_LARGEST_RANK = 63

_POOLS = ("MaxPool", "GlobalMaxPool")


class Carrier(enum.StrEnum):
    """How a neuron's output travels in the file."""

    TRAIN = "train"  # T spikes per neuron, time folded into the batch axis
    COUNT = "count"  # one spike count per neuron
    SERIAL = "serial"  # T spikes per neuron, one a step, in the order that it fires them


class Ties(enum.StrEnum):
    """Which count a potential gives that lies half way between two."""

    HALF_UP = "half_up"  # the larger, as in QCFS
    HALF_EVEN = "half_even"  # the even one, as in ONNX's QuantizeLinear and Round


@dataclass(frozen=True, eq=False)
class Neuron:
    """One layer of spiking neurons: everything that its subgraph is built from.

    A neuron with mean input current z fires (methods of Hao et al., ICML 2025,
    eq. 9, with T = levels)::

        u = T (z + shift) / threshold + 1/2        (membrane potential, in thresholds)
        n = Clip(Floor(u), 0, T)                   (spike count)
        y = amplitude * n                          (mean output)

    A quantiser rounds halves to even counts: u has no 1/2 then, and n = Clip(Round(u), 0, T).

    Attributes:
        name: the tensor that the activation wrote in the normalised graph. Node
            names do not survive ONNX Runtime's inlining; tensor names do.
        threshold: float32, shape ``[C]``, or ``[1]`` when the channel axis is lost.
        shift: float32, same shape; added to the current (psi_DA of eq. 9).
        amplitude: float32, same shape; output per spike, ``(theta + phi) / T``.
        levels: T, the largest spike count; of a population, that of all its neurons together.
        channel_axis: axis of the C channels, None for one value per tensor.
        batch_axis: the axis that time is folded into when the carrier is a train.
        pools: max pools that the layer stands behind here, and in front of in the other
            forms, as ``{"op": ..., "attrs": {...}}``: its tensors are the pooled neurons'.
        baseline: of a neuron behind a scalar function f, float32, same shape: its current is
            z = sign * f - baseline, and what the function would have given at zero spikes is
            sign * baseline; None for a rectifier. The network adds it behind the neuron, so
            that zeros of padding stay zeros.
        trained_levels: levels of the QCFS that the layer was trained as; None for one
            that was trained without quantisation.
        sign: +1 for an excitatory layer, -1 for an inhibitory one, which the network subtracts:
            for functions that decrease, wholly or up to a turning point.
        carrier: train, count or serial.
        ties: the count where u lies half way between two.
        members: neurons that share each current (`graphpass.populations`).
        member: which of them the layer holds, from 1 on; 0 for all of them.
    """

    name: str
    threshold: NDArray[np.float32]
    shift: NDArray[np.float32]
    amplitude: NDArray[np.float32]
    levels: int
    channel_axis: int | None
    batch_axis: int = 0
    trained_levels: int | None = None
    pools: tuple[Mapping[str, Any], ...] = ()
    baseline: NDArray[np.float32] | None = None
    sign: int = 1
    carrier: Carrier = Carrier.COUNT
    ties: Ties = Ties.HALF_UP
    members: int = 1
    member: int = 0

    @property
    def together(self) -> int:
        """Neurons for each current in this layer."""
        return 1 if self.member else self.members

    @property
    def population(self) -> str:
        """Name of the population that it is, or that it is of."""
        return self.name.removesuffix(f"/{self.member}") if self.member else self.name

    def is_like(self, other: Neuron) -> bool:
        """Can both be of one population?"""
        keys = ("population", "members", "levels", "channels", "channel_axis", "batch_axis")
        return all(getattr(self, key) == getattr(other, key) for key in keys)

    @property
    def firing_steps(self) -> int:
        """Time-steps that a neuron of the layer may fire in."""
        return self.levels // self.together

    @property
    def middle(self) -> float:
        """What u has beside T (z + shift) / threshold."""
        return 0.5 if self.ties is Ties.HALF_UP else 0.0

    @property
    def channels(self) -> int:
        """Number of channels with a threshold of their own."""
        return int(self.threshold.size)

    @property
    def potential(self) -> str:
        """Tensor that holds the membrane potential u before the comparison."""
        return f"{self.name}/potential"

    @property
    def spikes(self) -> str:
        """Tensor that holds the 0/1 spikes (train, serial) or their number (count)."""
        return f"{self.name}/spikes"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; float32 written so that reading gives the same bits."""
        return {
            "name": self.name,
            "threshold": plain_json.numbers(self.threshold),
            "shift": plain_json.numbers(self.shift),
            "amplitude": plain_json.numbers(self.amplitude),
            "levels": self.levels,
            "channel_axis": self.channel_axis,
            "batch_axis": self.batch_axis,
            "trained_levels": self.trained_levels,
            "pools": [dict(pool) for pool in self.pools],
            "baseline": None if self.baseline is None else plain_json.numbers(self.baseline),
            "sign": self.sign,
            "carrier": self.carrier.value,
            "ties": self.ties.value,
            "members": self.members,
            "member": self.member,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Neuron:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: when a field is missing or malformed.
        """
        names = ["threshold", "shift", "amplitude"]
        if values["baseline"] is not None:
            names.append("baseline")
        arrays = {key: vector(values[key]) for key in names}
        if any(a.shape != arrays["threshold"].shape for a in arrays.values()):
            raise ValueError(f"{', '.join(names)}: they differ in shape")
        if not (arrays["threshold"] > 0).all():
            raise ValueError("a threshold is not positive")
        pools = tuple(dict(pool) for pool in values["pools"])
        if not all(pool["op"] in _POOLS and _are_attributes(pool["attrs"]) for pool in pools):
            raise ValueError("a pool is none")
        if values["channel_axis"] in (None, values["batch_axis"]) and arrays["threshold"].size > 1:
            raise ValueError("channels without an axis")
        sign = integer(values["sign"], -1, 1)
        if sign == 0:
            raise ValueError("sign is 0")
        members = integer(values.get("members", 1), 1, LARGEST_POPULATION)
        member = integer(values.get("member", 0), 0, members)
        if member == 0 and integer(values["levels"], 1) % members:
            raise ValueError("neurons of a population with different levels")
        return cls(
            name=str(values["name"]),
            levels=integer(values["levels"], 1, LARGEST_T),
            channel_axis=integer_or_none(values["channel_axis"], 0, _LARGEST_RANK),
            batch_axis=integer(values["batch_axis"], 0, _LARGEST_RANK),
            trained_levels=integer_or_none(values["trained_levels"], 1),
            pools=pools,
            sign=sign,
            carrier=Carrier(values["carrier"]),
            ties=Ties(values.get("ties", Ties.HALF_UP)),
            members=members,
            member=member,
            **arrays,
        )


def _are_attributes(values: Any) -> bool:
    """Can a MaxPool have these: numbers, words, and lists of numbers?"""
    lists = [value for value in values.values() if not isinstance(value, int | str)]
    whole = all(isinstance(item, int) for value in lists for item in value)
    return whole and all(isinstance(value, list) and value for value in lists)
