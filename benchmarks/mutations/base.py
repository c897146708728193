"""What the mutations share: the list of them, and ways to pick something of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

Rng = np.random.Generator
Mutation = Callable[[ModelProto, Rng], None]

MUTATIONS: list[Mutation] = []

NUMBERS = (0, 1, -1, 2, 3, -7, 100, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("nan"), float("inf"), -float("inf"))
NAMES = (
    "",
    "\x1b[31m\x1b]0;title\x07",
    "<script>alert(1)</script>",
    "[bold]x[/bold]",
    "[/]",
    "a\nb\r\tc",
    "../../etc/passwd",
    "%s%n{0}",
    "\u202eevil\u0000",
    "x" * 5000,
)


def mutation(function: Mutation) -> Mutation:
    """Register one."""
    MUTATIONS.append(function)
    return function


def often(function: Mutation) -> Mutation:
    """Register one that is to come up more often than others."""
    MUTATIONS.extend([function] * 4)
    return function


def pick(options: Sequence[Any], rng: Rng) -> Any:
    """One of some options."""
    return options[int(rng.integers(len(options)))]


def any_node(proto: ModelProto, rng: Rng) -> NodeProto:
    """A node of the graph, of a function or of a subgraph."""
    bodies = [list(proto.graph.node)] * 4 + [list(f.node) for f in proto.functions]
    bodies += [list(a.g.node) for n in proto.graph.node for a in n.attribute if a.HasField("g")]
    nodes = pick(bodies, rng)
    return pick(nodes, rng) if nodes else proto.graph.node.add(op_type="Relu")


def any_name(proto: ModelProto, rng: Rng) -> str:
    """Name of a tensor."""
    graph = proto.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    names += [tensor.name for tensor in graph.initializer]
    return str(pick(names, rng)) if names else "x"


def any_weight(proto: ModelProto, rng: Rng) -> TensorProto:
    """An initializer, or the value of a Constant."""
    found = list(proto.graph.initializer)
    found += [a.t for n in proto.graph.node for a in n.attribute if a.HasField("t")]
    return pick(found, rng) if found else proto.graph.initializer.add(name="w")


def integers(rng: Rng) -> list[int]:
    """A few numbers, many of them extreme."""
    return [int(pick(NUMBERS, rng)) for _ in range(rng.integers(0, 6))]
