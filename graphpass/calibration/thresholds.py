"""Thresholds of unbounded activations: the largest current of each channel."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray

from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring
from graphpass.model import Model, to_proto
from graphpass.timeflow import TimeFlow


def record_maximum(
    model: Model,
    names: Collection[str],
    flow: TimeFlow,
    measuring: Measuring,
) -> dict[str, NDArray[np.float32]]:
    """Running maximum of each channel over batch and space, in one pass of the ANN.

    The paper records with the clip at the threshold so far already active. Since the
    threshold is raised before the clip, the clip never cuts anything, and the result is
    the maximum that the plain ANN reaches.

    Args:
        model: stage 0.
        names: the Relus to record.
        flow: time types, for the channel axes.
        measuring: data, and how to run a graph.

    Returns:
        Activation name -> float32 ``[C]``, or ``[1]`` where the channel axis is lost.
    """
    proto = to_proto(model)
    outputs = {}
    nodes: list[onnx.NodeProto] = []
    for name in names:
        outputs[name] = f"{name}/maximum"
        nodes += statistics.reduce_to_channels(
            "ReduceMax",
            name,
            outputs[name],
            rank=len(flow.shapes[name]),
            channel_axis=flow.types[name].channel_axis,
            opset=model.opset,
        )
        statistics.add_output(proto, outputs[name])
    statistics.weave(proto, nodes)
    session = measuring.open_session(proto)
    maxima: dict[str, NDArray[np.float32]] = {}
    for feeds in measuring.batches("recording thresholds"):
        found = session.run(feeds, list(outputs.values()))
        for name, output in outputs.items():
            seen = maxima.get(name)
            maxima[name] = found[output] if seen is None else np.maximum(seen, found[output])
    return maxima
