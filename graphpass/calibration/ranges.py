"""The smallest and the largest value of tensors, in one pass over the data."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from graphpass.calibration import statistics
from graphpass.calibration.measuring import Measuring
from graphpass.model import Model, to_proto

Ranges = dict[str, tuple[float, float]]


def record_ranges(
    model: Model,
    names: Collection[str],
    measuring: Measuring,
) -> Ranges:
    """Smallest and largest value that each tensor reaches on the data.

    Args:
        model: any stage.
        names: float32 tensors.
        measuring: data, and how to run a graph.
    """
    proto = to_proto(model)
    ends = ("ReduceMin", "ReduceMax")
    nodes: list[onnx.NodeProto] = []
    for name in names:
        for op in ends:
            scalar, output = f"{name}/{op}/scalar", f"{name}/{op}"
            nodes.append(helper.make_node(op, [name], [scalar], keepdims=0))
            nodes += statistics.shaped(scalar, output, 0)
            statistics.add_output(proto, output)
    statistics.weave(proto, nodes)
    session = measuring.open_session(proto.SerializeToString())
    ranges: Ranges = {}
    for feeds in measuring.batches("recording ranges"):
        found = session.run(feeds, [f"{name}/{op}" for name in names for op in ends])
        for name in names:
            low, high = (float(found[f"{name}/{op}"][0]) for op in ends)
            old = ranges.get(name, (low, high))
            ranges[name] = min(low, old[0]), max(high, old[1])
    return ranges
