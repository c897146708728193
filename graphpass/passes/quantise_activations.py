"""Stage 2: every bounded activation gets T levels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing
from graphpass.activation import channel_count
from graphpass.model import Model
from graphpass.neurons import Neuron, daqcfs, parameters
from graphpass.passes.base import Pass
from graphpass.timeflow import TimeFlow
from graphpass_runtime.errors import ModelError

_BOUNDED = (dialect.CLIP_RELU, dialect.CLIP_ABOVE, dialect.QCFS)

_MOST_LEVELS = 2**31  # of an integer type


class QuantiseActivations(Pass):
    """ClipReLU, ClipAbove and QCFS become DA-QCFS at T levels: shift 0, amplitude theta/T.

    This is where the Neuron records begin. At T = the trained levels of a QCFS the
    layer is the same function.
    """

    def __init__(
        self,
        names: Collection[str],
        flow: TimeFlow,
        steps: int,
        levels: Mapping[str, int] | None = None,
        members: Mapping[str, int] | None = None,
    ) -> None:
        """Take the activations to quantise, time types for their axes, and T.

        Some activations may have fewer levels than T, by name, and some be populations of so
        many neurons.
        """
        self._names = frozenset(names)
        self._flow = flow
        self._steps = steps
        self._levels = levels or {}
        self._members = members or {}

    def apply(self, model: Model) -> int:
        """One record for each, in topological order."""
        made = []
        for node in list(model.graph.nodes):
            named = node.outputs and node.outputs[0].name in self._names
            if named and editing.is_dialect(node, *_BOUNDED):
                neuron = self._record(node)
                daqcfs.build(model, node, neuron)
                made.append(neuron)
        if made:
            model.note(neurons=tuple(made), steps=self._steps)
        return len(made)

    def _record(self, node: gs.Node) -> Neuron:
        # The type of the output: a QCFS knows its channels where its input has lost them.
        members = self._members.get(node.outputs[0].name, 1)
        levels = members * self._levels.get(node.outputs[0].name, self._steps)
        kind = self._flow.types[node.outputs[0].name]
        count = channel_count(node.inputs[0], kind.channel_axis)
        quantised = editing.is_dialect(node, dialect.QCFS)
        trained = editing.scalar(node.inputs[2]) if quantised else None
        above = node.op == dialect.CLIP_ABOVE
        limits = [np.asarray(editing.values(tensor)) for tensor in node.inputs[1:]]
        threshold = _per_channel(limits[-1] if above else limits[0], count)
        if threshold.size != count:
            raise ModelError(
                f"{editing.describe(node)} has {threshold.size} thresholds for {count} channels",
                remedy="check the network that it was exported from",
            )
        if (what := parameters.unusable(threshold)) is not None:
            raise ModelError(
                f"{editing.describe(node)} has a threshold of {what}",
                remedy="check the network that it was exported from",
            )
        assert kind.batch_axis is not None, "time flow refuses neurons without a batch"
        return Neuron(
            name=node.outputs[0].name,
            threshold=threshold,
            shift=np.zeros_like(threshold),
            amplitude=(threshold / np.float32(levels)).astype(np.float32),
            levels=levels,
            channel_axis=kind.channel_axis if count > 1 else None,
            batch_axis=kind.batch_axis,
            trained_levels=_whole(trained),
            ties=dialect.ties_of(node.op),
            baseline=_per_channel(limits[1], count) if above else None,
            sign=round(float(limits[0])) if above else 1,
            members=members,
        )


def _whole(levels: float | None) -> int | None:
    """Levels that a network can have been trained with: what a file says may be any number."""
    if levels is None or not 1 <= levels < _MOST_LEVELS:
        return None
    return round(levels)


def _per_channel(threshold: NDArray[Any], channels: int) -> NDArray[np.float32]:
    flat = threshold.astype(np.float32).ravel()
    return np.repeat(flat, channels) if flat.size == 1 else flat
