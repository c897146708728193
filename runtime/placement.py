"""Which execution provider ran each node, as ONNX Runtime's own profile tells.

A session that has CUDA can still run nodes on the CPU, with copies between them, and
says nothing about it. The nodes are those of the optimised graph: fused, and without
local functions.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphpass_runtime.execution import execute
from graphpass_runtime.feeds import Array
from graphpass_runtime.loading import ModelSource

_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class PlacedNode:
    """A node that ran.

    Attributes:
        name: its name in the optimised graph; need not be unique.
        operator: its operator.
        provider: the execution provider, in ONNX Runtime's spelling.
        microseconds: time on the host. A GPU works on after that, until it is waited for.
        runs: how often it ran; more than once inside a loop.
    """

    name: str
    operator: str
    provider: str
    microseconds: int
    runs: int = 1


@dataclass(frozen=True)
class Placement:
    """All nodes that ran for one batch, in the order of their first run."""

    nodes: tuple[PlacedNode, ...]

    def operators(self) -> dict[str, dict[str, int]]:
        """Provider -> operator -> number of nodes, the most frequent first."""
        counts: dict[str, Counter[str]] = {}
        for node in self.nodes:
            counts.setdefault(node.provider, Counter())[node.operator] += 1
        return {provider: dict(found.most_common()) for provider, found in counts.items()}

    def microseconds(self) -> dict[str, int]:
        """Provider -> time on the host."""
        times: Counter[str] = Counter()
        for node in self.nodes:
            times[node.provider] += node.microseconds
        return dict(times)

    def to_json(self) -> dict[str, dict[str, int]]:
        """Plain JSON values: what `operators` gives."""
        return self.operators()


def measure_placement(source: ModelSource, feeds: Mapping[str, Array]) -> Placement:
    """Run a batch under ONNX Runtime's profiler.

    Args:
        source: the model, and how to run it.
        feeds: checked arrays for all inputs.

    Raises:
        ModelError: ONNX Runtime fails while running.
    """
    with tempfile.TemporaryDirectory() as folder:
        session, _ = source.create(profile=Path(folder) / "profile")
        try:
            # The first run allocates and tunes; the second is the one that is read.
            for _ in range(2):
                execute(lambda options: session.run(None, feeds, options), where=source.where)
        finally:
            path = Path(session.end_profiling())
        return Placement(read_profile(json.loads(path.read_text(encoding="utf-8"))))


def read_profile(events: Sequence[Mapping[str, Any]]) -> tuple[PlacedNode, ...]:
    """The nodes of the last run in a profile of ONNX Runtime."""
    runs = [e for e in events if e.get("cat") == "Session" and e.get("name") == "model_run"]
    start = max((int(e["ts"]) for e in runs), default=0)
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for event in events:
        args = event.get("args") or {}
        name = str(event.get("name", ""))
        ours = event.get("cat") == "Node" and name.endswith(_KERNEL) and "provider" in args
        if ours and int(event["ts"]) >= start:
            node = name.removesuffix(_KERNEL)
            key = (node, str(args.get("node_index", "")), str(args.get("op_name", "")))
            found.setdefault((*key, str(args["provider"])), []).append(int(event["dur"]))
    return tuple(
        PlacedNode(name, operator, provider, sum(times), len(times))
        for (name, _, operator, provider), times in found.items()
    )
