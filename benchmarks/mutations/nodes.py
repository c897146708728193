"""Mutations of nodes: what they compute, what they read, and their order."""

from __future__ import annotations

from onnx import AttributeProto, ModelProto, NodeProto

from mutations.base import FLOATS, NAMES, NUMBERS, Rng, any_name, any_node, integers, mutation, pick

_OPS = """
    Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose
    Div Dropout Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool Identity If Loop MatMul
    Max MaxPool Min Mul Neg Pad ReduceMean ReduceSum Relu Reshape Resize Round Scan Shape Sigmoid
    Slice Softmax Split Squeeze Sub Sum Tanh Transpose Unsqueeze Where NoSuchOperator
""".split()
_ATTRIBUTES = (
    "allowzero alpha auto_pad axes axis beta ceil_mode count_include_pad dilations epsilon group"
    " keepdims kernel_shape max min mode momentum output_padding pads perm split storage_order"
    " strides to transA transB training_mode value"
).split()


@mutation
def _change_operator(proto: ModelProto, rng: Rng) -> None:
    any_node(proto, rng).op_type = pick((*_OPS, *(f.name for f in proto.functions)), rng)


@mutation
def _change_domain(proto: ModelProto, rng: Rng) -> None:
    domain = pick(("com.microsoft", "graphpass", "ai.onnx", "ai.onnx.ml", "x", *NAMES), rng)
    any_node(proto, rng).domain = domain
    if rng.random() < 0.5:
        proto.opset_import.add(domain=domain, version=int(pick(NUMBERS, rng)))


@mutation
def _change_attribute(proto: ModelProto, rng: Rng) -> None:
    node = any_node(proto, rng)
    attribute = pick(node.attribute, rng) if node.attribute else None
    if attribute is None or rng.random() < 0.4:
        name = pick(_ATTRIBUTES, rng) if attribute is None or rng.random() < 0.5 else ""
        name = name or attribute.name  # type: ignore[union-attr]  # "" where there is one
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, _new_attribute(name, rng)])
    elif attribute.ints and rng.random() < 0.8:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = int(pick(NUMBERS, rng))
    elif attribute.type == AttributeProto.INT:
        attribute.i = int(pick(NUMBERS, rng))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = float(pick(FLOATS, rng))
    else:
        node.attribute.remove(attribute)


def _new_attribute(name: str, rng: Rng) -> AttributeProto:
    integer = AttributeProto(name=name, type=AttributeProto.INT, i=int(pick(NUMBERS, rng)))
    real = AttributeProto(name=name, type=AttributeProto.FLOAT, f=float(pick(FLOATS, rng)))
    text = AttributeProto(name=name, type=AttributeProto.STRING, s=pick(NAMES, rng).encode())
    padding = AttributeProto(name=name, type=AttributeProto.STRING, s=b"SAME_UPPER")
    many = AttributeProto(name=name, type=AttributeProto.INTS, ints=integers(rng))
    reference = AttributeProto(name=name, type=AttributeProto.INT, ref_attr_name="nothing")
    wrong = AttributeProto(name=name, type=int(rng.integers(0, 14)), i=3)  # type: ignore[arg-type]
    return pick((integer, integer, real, text, padding, many, many, reference, wrong), rng)


@mutation
def _swap_attributes(proto: ModelProto, rng: Rng) -> None:
    """Two nodes exchange all attributes, or one gets another's beside its own."""
    one, other = any_node(proto, rng), any_node(proto, rng)
    kept, given = list(one.attribute), list(other.attribute)
    if rng.random() < 0.5:
        del other.attribute[:]
        other.attribute.extend(kept)
        del one.attribute[:]
    one.attribute.extend(given)


@mutation
def _empty_attribute(proto: ModelProto, rng: Rng) -> None:
    """A list without items, maybe of no type."""
    node = any_node(proto, rng)
    kind = pick((AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS, 0), rng)
    name = pick([a.name for a in node.attribute] or _ATTRIBUTES, rng)
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, AttributeProto(name=name, type=kind)])


@mutation
def _drop_node(proto: ModelProto, rng: Rng) -> None:
    if proto.graph.node:
        del proto.graph.node[int(rng.integers(len(proto.graph.node)))]


@mutation
def _repeat_node(proto: ModelProto, rng: Rng) -> None:
    copy = NodeProto()
    copy.CopyFrom(any_node(proto, rng))
    if rng.random() < 0.7:
        copy.output[:] = [f"{name}_again" for name in copy.output]
    if rng.random() < 0.5:
        copy.name = f"{copy.name}_again"
    proto.graph.node.append(copy)


@mutation
def _bypass_node(proto: ModelProto, rng: Rng) -> None:
    """Let readers of a node's output read its input: ranks and sizes no longer fit."""
    node = pick(proto.graph.node, rng) if proto.graph.node else None
    if node is not None and node.input and node.output:
        for reader in proto.graph.node:
            reader.input[:] = [node.input[0] if n == node.output[0] else n for n in reader.input]


@mutation
def _shuffle_nodes(proto: ModelProto, rng: Rng) -> None:
    nodes = list(proto.graph.node)
    order = rng.permutation(len(nodes))
    del proto.graph.node[:]
    proto.graph.node.extend([nodes[i] for i in order])


@mutation
def _rewire(proto: ModelProto, rng: Rng) -> None:
    """Another input or output: swapped, missing, added, dangling, or a cycle."""
    node = any_node(proto, rng)
    names = node.input if rng.random() < 0.8 else node.output
    tensor = pick((any_name(proto, rng), "", "dangling", *node.output), rng)
    way = rng.integers(4)
    if way == 0:
        names.append(tensor)
    elif names and way == 1:
        names.pop()
    elif names and way == 2:
        names[:] = list(names)[::-1]
    elif names:
        names[int(rng.integers(len(names)))] = tensor


@mutation
def _rename(proto: ModelProto, rng: Rng) -> None:
    """One name to another, everywhere or only where it is written."""
    old, new = any_name(proto, rng), pick((*NAMES, any_name(proto, rng)), rng)
    everywhere = rng.random() < 0.8
    for node in proto.graph.node:
        if everywhere:
            node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*proto.graph.initializer, *proto.graph.output, *proto.graph.input):
        if everywhere and value.name == old:
            value.name = new


@mutation
def _collide(proto: ModelProto, rng: Rng) -> None:
    """An output gets the name of another tensor, or its readers with it."""
    node, other = any_node(proto, rng), any_name(proto, rng)
    if node.output:
        index = int(rng.integers(len(node.output)))
        if rng.random() < 0.5:
            for reader in proto.graph.node:
                reader.input[:] = [other if n == node.output[index] else n for n in reader.input]
        node.output[index] = other


@mutation
def _name_node(proto: ModelProto, rng: Rng) -> None:
    node = any_node(proto, rng)
    node.name = pick((*NAMES, any_node(proto, rng).name), rng)
    node.doc_string = pick(NAMES, rng)
