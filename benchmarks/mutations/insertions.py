"""Mutations that leave most models valid: nodes put between others, weights as variables.

They reach what a broken file never does: rules, passes, calibration and forms.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from mutations.base import FLOATS, Rng, any_name, often, pick

_UNARY = (
    ("Relu", {}),
    ("Clip", {}),
    ("Neg", {}),
    ("Identity", {}),
    ("Abs", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Floor", {}),
    ("Dropout", {}),
    ("Softmax", {"axis": 1}),
    ("Flatten", {"axis": 0}),
    ("Flatten", {"axis": 2}),
    ("Transpose", {"perm": [1, 0, 2, 3]}),
    ("Transpose", {"perm": [0, 2, 3, 1]}),
    ("Transpose", {"perm": [0, 1]}),
    ("Transpose", {}),
    ("Cast", {"to": 10}),
    ("Cast", {"to": 11}),
    ("Cast", {"to": 1}),
    ("Cast", {"to": 7}),
    ("MaxPool", {"kernel_shape": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2]}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
    ("Gather", {"axis": 1}),
    ("ReduceMean", {}),
    ("ReduceMean", {"keepdims": 0}),
    ("Concat", {"axis": 0}),
    ("Concat", {"axis": 1}),
)
_BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "MatMul", "Concat", "Sum")


@often
def _insert_unary(proto: ModelProto, rng: Rng) -> None:
    node = _source(proto, rng)
    if node is not None:
        op, attributes = pick(_UNARY, rng)
        _insert(proto, node, helper.make_node(op, [node.output[0]], [], **attributes), rng)


@often
def _insert_binary(proto: ModelProto, rng: Rng) -> None:
    """With itself, another tensor, or a constant of some shape."""
    node = _source(proto, rng)
    if node is None:
        return
    other = pick((node.output[0], any_name(proto, rng), "constant"), rng)
    if other == "constant":
        value = float(pick((*FLOATS, 0.5, 2.0, -3.0), rng))
        shape = pick(((), (1,), (1, 1), (2, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1)), rng)
        array = np.full(shape, value, np.float32)
        other = f"constant_{len(proto.graph.initializer)}"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, other))
    operands = [node.output[0], other]
    op = pick(_BINARY, rng)
    attributes = {"axis": int(rng.integers(0, 3))} if op == "Concat" else {}
    if rng.random() < 0.3:
        operands.reverse()
    _insert(proto, node, helper.make_node(op, operands, [], **attributes), rng)


@often
def _expose(proto: ModelProto, rng: Rng) -> None:
    """An inner tensor becomes an output too."""
    node = _source(proto, rng)
    if node is not None:
        proto.graph.output.append(helper.make_tensor_value_info(node.output[0], 1, None))


@often
def _feed_weight(proto: ModelProto, rng: Rng) -> None:
    """A weight becomes what a node computes, maybe from the input of the network."""
    if not proto.graph.initializer:
        return
    weight = pick(proto.graph.initializer, rng)
    name = weight.name
    weight.name = f"{name}/stored"
    operands = [weight.name]
    if rng.random() < 0.3 and proto.graph.input:
        operands.append(proto.graph.input[0].name)
    op = "Identity" if len(operands) == 1 else pick(("Add", "Mul"), rng)
    proto.graph.node.insert(0, helper.make_node(op, operands, [name]))


def _source(proto: ModelProto, rng: Rng) -> NodeProto | None:
    nodes = [node for node in proto.graph.node if node.output and node.output[0]]
    return pick(nodes, rng) if nodes else None


def _insert(proto: ModelProto, before: NodeProto, new: NodeProto, rng: Rng) -> None:
    """Let one reader of a node, or all of them, read the new node instead."""
    name = before.output[0]
    readers = [node for node in proto.graph.node if name in node.input]
    new.output.append(f"inserted_{len(proto.graph.node)}")
    if readers and rng.random() < 0.3:
        readers = [pick(readers, rng)]
    for reader in readers:
        reader.input[:] = [new.output[0] if n == name else n for n in reader.input]
    where = next((i for i, node in enumerate(proto.graph.node) if name in node.output), 0)
    proto.graph.node.insert(where + 1, new)
    if not readers:  # an output of the graph
        new.output[0], before.output[0] = name, f"{name}/before"
        new.input[:] = [before.output[0] if n == name else n for n in new.input]
