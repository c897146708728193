"""What rounding to 8 bits needs to know of tensors, in one pass over the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring, count
from graphpass.grids import Axes
from graphpass.model import Model, to_proto

_ENDS = ("ReduceMin", "ReduceMax")


@dataclass(frozen=True)
class Currents:
    """What was measured, by tensor name.

    Attributes:
        ranges: smallest and largest value.
        means: mean per channel, float32 values.
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    means: dict[str, tuple[float, ...]] = field(default_factory=dict)


def record_currents(
    model: Model,
    ranged: Collection[str],
    averaged: Mapping[str, Axes],
    measuring: Measuring,
) -> Currents:
    """Smallest, largest and mean values that tensors have on the data.

    Args:
        model: any stage.
        ranged: float32 tensors whose ends are wanted.
        averaged: float32 tensors whose means are wanted, and where their channels are.
        measuring: data, and how to run a graph.
    """
    session = measuring.open_session(_measuring_net(model, ranged, averaged))
    ends = [_output(name, op) for name in ranged for op in _ENDS]
    means = [_output(name, "mean") for name in averaged]
    result, totals, samples = Currents(), dict.fromkeys(averaged, 0.0), 0
    sums: dict[str, NDArray[np.float64] | float] = {**totals}
    for feeds in measuring.batches("recording ranges"):
        found = session.run(feeds, [*ends, *means])
        for name in ranged:
            low, high = (float(found[_output(name, op)][0]) for op in _ENDS)
            old = result.ranges.get(name, (low, high))
            result.ranges[name] = min(low, old[0]), max(high, old[1])
        for name in averaged:
            mean = found[_output(name, "mean")].astype(np.float64)
            sums[name] = sums[name] + mean * count(feeds)
        samples += count(feeds)
    for name, total in sums.items():
        result.means[name] = _plain(np.asarray(total) / max(1, samples))
    return result


def _measuring_net(
    model: Model, ranged: Collection[str], averaged: Mapping[str, Axes]
) -> onnx.ModelProto:
    proto = to_proto(model)
    nodes: list[onnx.NodeProto] = []
    for name in ranged:
        for op in _ENDS:
            output = _output(name, op)
            nodes.append(helper.make_node(op, [name], [f"{output}/scalar"], keepdims=0))
            nodes += statistics.shaped(f"{output}/scalar", output, rank=1, channel_axis=None)
            statistics.add_output(proto, output)
    for name, axes in averaged.items():
        nodes += statistics.reduce_to_channels(
            "ReduceMean",
            name,
            _output(name, "mean"),
            rank=axes.rank,
            channel_axis=axes.channels,
            opset=model.opset,
        )
        statistics.add_output(proto, _output(name, "mean"))
    statistics.weave(proto, nodes)
    return proto


def _output(name: str, what: str) -> str:
    return f"{name}/{what}"


def _plain(means: NDArray[Any]) -> tuple[float, ...]:
    # The shortest decimals that read back as the same float32.
    return tuple(float(str(value)) for value in means.astype(np.float32))
