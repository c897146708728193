"""The smallest and the largest current of each channel, in one pass of the ANN."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring
from graphpass.model import Model, to_proto

Extremes = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def record_extremes(model: Model, axes: Mapping[str, int | None], measuring: Measuring) -> Extremes:
    """Running minimum and maximum over batch and space.

    Args:
        model: stage 0.
        axes: names of tensors, with the axis of their channels.
        measuring: data, and how to run a graph.

    Returns:
        Tensor name -> two float32 ``[C]``, or ``[1]`` where there is no channel axis.
    """
    proto, tensors = to_proto(model), model.graph.tensors()
    ends = ("ReduceMin", "ReduceMax")
    nodes: list[onnx.NodeProto] = []
    for name, axis in axes.items():
        for op in ends:
            nodes += statistics.reduce_to_channels(
                op,
                name,
                f"{name}/{op}",
                rank=len(tensors[name].shape),
                channel_axis=axis,
                opset=model.opset,
            )
            statistics.add_output(proto, f"{name}/{op}")
    statistics.weave(proto, nodes)
    session = measuring.open_session(proto)
    extremes: Extremes = {}
    for feeds in measuring.batches("recording currents of functions"):
        found = session.run(feeds, [f"{name}/{op}" for name in axes for op in ends])
        for name in axes:
            low, high = (found[f"{name}/{op}"] for op in ends)
            old = extremes.get(name, (low, high))
            extremes[name] = np.minimum(low, old[0]), np.maximum(high, old[1])
    return extremes
