"""Mutations that nest: functions and subgraphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

from mutations.base import NAMES, Rng, any_name, any_node, mutation, pick


@mutation
def _change_function(proto: ModelProto, rng: Rng) -> None:
    """A function missing, given twice, renamed, calling itself, without its inputs."""
    if not proto.functions:
        return
    function = pick(proto.functions, rng)
    way = rng.integers(6)
    if way == 0:
        proto.functions.remove(function)
    elif way == 1:
        proto.functions.append(function)
    elif way == 2:
        function.name = pick(NAMES, rng)
    elif way == 3:
        call = function.node.add(op_type=function.name, domain=function.domain)
        call.input.extend(function.input)
    elif way == 4:
        del function.input[:]
    else:
        del function.output[:]


@mutation
def _add_function(proto: ModelProto, rng: Rng) -> None:
    """A function around a node, called through a chain of others."""
    node = any_node(proto, rng)
    inner = NodeProto()
    inner.CopyFrom(node)
    inner.input[:] = [f"i{i}" for i in range(len(node.input))]
    inner.output[:] = [f"o{i}" for i in range(len(node.output))]
    depth, twice = int(pick((1, 2, 30), rng)), bool(rng.random() < 0.2)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(depth):
        body = [inner]
        if twice and len(inner.output) == 1:  # written out, that is a power of two
            again = NodeProto()
            again.CopyFrom(inner)
            again.output[0] += "_again"
            body.append(again)
        function = helper.make_function(
            "own", f"f{level}", list(inner.input), list(inner.output), body, opsets
        )
        proto.functions.append(function)
        caller = helper.make_node(f"f{level}", inner.input, inner.output, domain="own")
        inner = caller
    node.op_type, node.domain = f"f{depth - 1}", "own"
    del node.attribute[:]
    if rng.random() < 0.8:
        proto.opset_import.add(domain="own", version=1)


@mutation
def _add_subgraph(proto: ModelProto, rng: Rng) -> None:
    """An If in place of a node, whose branches hold it, maybe many levels deep."""
    node = any_node(proto, rng)
    moved = NodeProto()
    moved.CopyFrom(node)
    body = _branch([moved], list(node.output))
    for _ in range(int(pick((0, 1, 20, 40), rng))):
        inner = helper.make_node("If", ["cond"], list(node.output), then_branch=body)
        inner.attribute.append(helper.make_attribute("else_branch", _branch([], [])))
        body = _branch([inner], list(node.output))
    name = pick(("cond", "dangling", any_name(proto, rng)), rng)
    if name == "cond":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(True), "cond"))
    node.CopyFrom(helper.make_node("If", [name], list(node.output), then_branch=body))
    other = body if rng.random() < 0.7 else _branch([], list(node.output))
    node.attribute.append(helper.make_attribute("else_branch", other))


@mutation
def _add_loop(proto: ModelProto, rng: Rng) -> None:
    """A Loop around a node: never run, a few times, or for ever."""
    node = any_node(proto, rng)
    if not node.input or not node.output:
        return
    moved = NodeProto()
    moved.CopyFrom(node)
    moved.input[0], moved.output[0] = "carried", "carried_on"
    kept = helper.make_node("Identity", ["more"], ["more_on"])
    inputs = [helper.make_tensor_value_info(n, t, ()) for n, t in (("i", 7), ("more", 9))]
    outputs = [helper.make_tensor_value_info("more_on", 9, ())]
    states = [helper.make_tensor_value_info(n, 1, None) for n in ("carried", "carried_on")]
    body = helper.make_graph(
        [kept, moved], "body", [*inputs, states[0]], [*outputs, states[1]]
    )  # fmt: skip
    count, forever = int(pick((0, 1, 3, 2**62), rng)), rng.random() < 0.3
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(count), "trips"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(True), "more_first"))
    trips = "" if forever else "trips"
    node.CopyFrom(
        helper.make_node("Loop", [trips, "more_first", node.input[0]], [node.output[0]], body=body)
    )


@mutation
def _through_another_type(proto: ModelProto, rng: Rng) -> None:
    """A tensor goes through a sequence, an optional or a string."""
    node = any_node(proto, rng)
    if not node.input:
        return
    name = node.input[0]
    way = pick((("SequenceConstruct", "SequenceAt"), ("Optional", "OptionalGetElement")), rng)
    proto.graph.node.insert(0, helper.make_node(way[0], [name], ["wrapped"]))
    first = helper.make_node("Constant", [], ["first"], value_int=0)
    proto.graph.node.insert(1, first)
    at = ["wrapped", "first"] if way[1] == "SequenceAt" else ["wrapped"]
    proto.graph.node.insert(2, helper.make_node(way[1], at, ["unwrapped"]))
    node.input[0] = "unwrapped"
    if rng.random() < 0.3:
        proto.graph.output.append(
            helper.make_tensor_sequence_value_info("wrapped", 1, None)
        )  # fmt: skip


def _branch(nodes: list[NodeProto], outputs: list[str]) -> GraphProto:
    values = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    return helper.make_graph(nodes, "branch", [], values)
