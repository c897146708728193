"""The smallest and the largest value of tensors, in one pass over the data."""

from __future__ import annotations

from collections.abc import Collection

from onnx import helper

from graphpass.calibration import statistics
from graphpass.calibration.thresholds import OpenSession, Progress
from graphpass.model import Model, to_proto
from graphpass_runtime.data import Dataset

Ranges = dict[str, tuple[float, float]]


def record_ranges(
    model: Model,
    names: Collection[str],
    data: Dataset,
    *,
    batch: int,
    open_session: OpenSession,
    progress: Progress,
) -> Ranges:
    """Smallest and largest value that each tensor reaches on the data.

    Args:
        model: any stage.
        names: float32 tensors.
        data: calibration data.
        batch: samples per run.
        open_session: how to run a graph.
        progress: told that the pass starts.
    """
    proto = to_proto(model)
    ends = ("ReduceMin", "ReduceMax")
    for name in names:
        for op in ends:
            scalar, output = f"{name}/{op}/scalar", f"{name}/{op}"
            proto.graph.node.append(helper.make_node(op, [name], [scalar], keepdims=0))
            shape = statistics.shaped(scalar, output, 0)
            proto.graph.node.extend(shape)
            statistics.add_output(proto, output)
    session = open_session(proto.SerializeToString())
    ranges: Ranges = {}
    advance = progress("recording ranges", data.samples)
    for step in data.batches(batch):
        found = session.run(step.feeds, [f"{name}/{op}" for name in names for op in ends])
        for name in names:
            low, high = (float(found[f"{name}/{op}"][0]) for op in ends)
            old = ranges.get(name, (low, high))
            ranges[name] = min(low, old[0]), max(high, old[1])
        advance(len(next(iter(step.feeds.values()))))
    return ranges
