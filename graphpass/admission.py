"""Whether a file may be compiled at all: valid to the ONNX checker, or else to ONNX Runtime.

The passes rely on what this guarantees: operators have the inputs, outputs and attributes that
the standard gives them, shapes fit together, and every weight holds the data that it announces.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from graphpass import large_weights
from graphpass_runtime.errors import GraphpassError, ModelError

#: The largest constant of a current: float32 ends at 2^128, and T currents are summed.
LARGEST = 2.0**112

_BLOCK = 1 << 22  # elements that are looked at together
_MOST_NODES = 1_000_000  # with all functions written out; the largest networks have some 10,000
_LARGEST_SIZE = 2**31
_WINDOWS = frozenset(("dilations", "kernel_shape", "output_padding", "pads", "strides"))
_LAYERS = frozenset(("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul"))
_EXPERIMENTAL = frozenset(
    """ATen Affine ConstantFill Crop DynamicSlice GRUUnit GivenTensorFill ImageScaler
    ParametricSoftplus Scale ScaledTanh""".split()
)


def admit(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse a file that is not valid.

    Real files hold mistakes that ONNX Runtime does not mind: where the checker says no, its
    word counts.

    Args:
        proto: the content of the file, external data loaded.
        path: the file.

    Raises:
        ModelError: it is not valid, an output has no name of its own, or a weight does not
            hold what it announces.
    """
    check_runnable(proto, path)
    if (text := _undecodable(proto)) is not None:
        raise ModelError(
            f"{text} is not UTF-8",
            where=str(path),
            remedy="check that the file is complete, or export the model again",
        )
    outputs = Counter(value.name for value in proto.graph.output)
    if twice := next((name for name, times in outputs.items() if times > 1), None):
        raise ModelError(
            f"lists the output '{twice}' twice",
            where=str(path),
            remedy="export the model again with a name for each output",
        )
    for node in all_nodes(proto):
        order = next((a.i for a in node.attribute if a.name == "storage_order"), 0)
        if order not in (0, 1):  # ONNX Runtime minds only where it does not fuse the node
            raise ModelError(
                f"{node.op_type} node '{node.name}' has a storage_order of {order}",
                where=str(path),
                remedy="use 0 or 1",
            )
    layers = {name for node in all_nodes(proto) if node.op_type in _LAYERS for name in node.input}
    for weight in _weights(proto):
        if (problem := _damage(weight, in_layer=weight.name in layers)) is not None:
            raise ModelError(
                f"weight '{weight.name}' {problem}",
                where=str(path),
                remedy="export or download the model again",
            )
    if (problem := _checker_says(proto)) is not None:
        from graphpass_runtime.loading import ModelSource

        try:
            ModelSource(path, "cpu", None, threads=1).create()
        except GraphpassError as refusal:
            raise ModelError(
                f"is not valid ONNX ({problem})",
                where=str(path),
                remedy="export it again, or mend what onnx.checker names",
            ) from refusal


def _checker_says(proto: onnx.ModelProto) -> str | None:
    """What is not valid; None where nothing is."""
    if any(node.op_type in _EXPERIMENTAL and not node.domain for node in all_nodes(proto)):
        return "holds experimental operators"  # which the checker only prints a line about
    try:
        onnx.checker.check_model(without_weights(proto), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        return first_line(error)
    return None


def check_runnable(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse what ONNX Runtime does not come back from, busy for ever or crashed.

    Functions that nobody could write out: a few lines may ask for any number of nodes. Operands
    left out of operators that take any number of them, directly or through a function. And
    windows of sizes that overflow where it adds them up.

    Raises:
        ModelError: functions stand for too many nodes, or call each other in a circle; an
            operand is missing; or a window is larger than any tensor.
    """
    if _expanded(proto) > _MOST_NODES:
        raise ModelError(
            f"its functions stand for more than {_MOST_NODES:,} nodes",
            where=str(path),
            remedy="export the model without functions",
        )
    if (node := _without_operand(proto)) is not None:
        raise ModelError(
            f"{node.op_type} node '{node.name}' leaves out an operand",
            where=str(path),
            remedy="export the model again",
        )
    for node in all_nodes(proto):
        if (window := _overflowing(node)) is not None:
            raise ModelError(
                f"{node.op_type} node '{node.name}' has {window} beyond 2^31",
                where=str(path),
                remedy="export the model again",
            )


def _overflowing(node: onnx.NodeProto) -> str | None:
    windows = (a for a in node.attribute if a.name in _WINDOWS)
    return next((a.name for a in windows if any(abs(n) > _LARGEST_SIZE for n in a.ints)), None)


def _without_operand(proto: onnx.ModelProto) -> onnx.NodeProto | None:
    functions = {(f.domain, f.name): f for f in proto.functions}
    for node in all_nodes(proto):
        if _takes_any_of(node, {""}):
            return node
        called = functions.get((node.domain, node.op_type))
        if called is not None:
            given = dict(zip(called.input, node.input, strict=False))
            missing = {name for name in called.input if not given.get(name)}
            if any(_takes_any_of(inner, missing) for inner in called.node):
                return node
    return None


def _takes_any_of(node: onnx.NodeProto, names: Set[str]) -> bool:
    """Is one of these among the operands of an operator that takes any number?"""
    is_text = isinstance(node.op_type, str)  # damaged, it is bytes
    if not is_text or node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return False
    inputs = onnx.defs.get_schema(node.op_type).inputs
    variadic = (
        bool(inputs) and inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    )
    return variadic and not names.isdisjoint(node.input[len(inputs) - 1 :])


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose larger weights are inputs: checking it costs the same at any size."""
    light = onnx.ModelProto()
    for source, target, left_out in (
        (proto, light, "graph"),
        (proto.graph, light.graph, "initializer"),
    ):
        for descriptor, value in source.ListFields():
            if descriptor.name == left_out:
                continue
            if isinstance(value, str | int):
                setattr(target, descriptor.name, value)
            else:
                getattr(target, descriptor.name).extend(value)
    listed = {value.name for value in light.graph.input}
    for weight in proto.graph.initializer:
        if weight.ByteSize() <= large_weights.SMALL and not large_weights.is_reference(weight):
            light.graph.initializer.append(weight)
        elif weight.name not in listed:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            )
    return light


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph, of its subgraphs, and of functions."""
    yield from _with_inner(proto.graph.node)
    for function in proto.functions:
        yield from _with_inner(function.node)


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def lost_attribute(proto: onnx.ModelProto) -> str | None:
    """An attribute that graphsurgeon drops on reading, or cannot write again."""
    for node in all_nodes(proto):
        for attribute in node.attribute:
            items = _LISTS.get(attribute.type)
            held = attribute.type in _SINGLE or (items and getattr(attribute, items))
            if not held and not attribute.ref_attr_name:
                return f"'{attribute.name}' of {node.op_type} node '{node.name}'"
    return None


def dangling_attribute(proto: onnx.ModelProto) -> str | None:
    """An attribute that stands for one of a function's, in a model without functions."""
    attributes = (attribute for node in all_nodes(proto) for attribute in node.attribute)
    return next((a.name for a in attributes if a.ref_attr_name), None)


def no_tensor(proto: onnx.ModelProto) -> str | None:
    """An input or output that is a sequence, a map, or may be absent; None where none is."""
    for what, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind not in (None, "tensor_type"):
                return f"{what} '{value.name}' is a {kind.removesuffix('_type')}"
    return None


def first_line(error: BaseException) -> str:
    """What an error of a library says, in short."""
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _expanded(proto: onnx.ModelProto) -> float:
    """Number of nodes when every function is written out."""
    calls = {(f.domain, f.name): _calls(f.node) for f in proto.functions}
    sizes: dict[tuple[str, str], float] = {}
    try:
        own = {key: set(called) & set(calls) for key, called in calls.items()}
        for key in TopologicalSorter(own).static_order():
            sizes[key] = sum(sizes.get(call, 1.0) for call in calls[key])
    except CycleError:
        return math.inf
    return sum(sizes.get(call, 1.0) for call in _calls(proto.graph.node))


def _calls(nodes: Iterable[onnx.NodeProto]) -> list[tuple[str, str]]:
    return [(node.domain, node.op_type) for node in _with_inner(nodes)]


def _undecodable(message: Message) -> str | None:
    """The field of a text that is not UTF-8, if there is one: protobuf hands it out as bytes."""
    fields: Sequence[tuple[Any, Any]]
    if isinstance(message, onnx.TensorProto):  # its data is not looked at
        fields = [(message.DESCRIPTOR.fields_by_name["name"], message.name)]
    else:
        fields = message.ListFields()
    for field, value in fields:
        items = (
            value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        )
        if field.type == field.TYPE_STRING and not all(isinstance(item, str) for item in items):
            return f"{message.DESCRIPTOR.name}.{field.name}"
        if field.type == field.TYPE_MESSAGE:
            for item in items:
                if (found := _undecodable(item)) is not None:
                    return found
    return None


def _weights(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers and tensors in attributes, those of subgraphs and functions included."""
    yield from proto.graph.initializer
    for node in all_nodes(proto):
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer


def _damage(weight: onnx.TensorProto, *, in_layer: bool) -> str | None:
    """What is wrong with a tensor; one at a time is read.

    Infinity has its uses, as a mask or the lack of a bound, but not in a layer.
    """
    if any(size < 0 for size in weight.dims):
        return f"has the sizes {list(weight.dims)}"
    if weight.data_type == onnx.TensorProto.STRING:
        held, needed = len(weight.string_data), math.prod(weight.dims)
        return f"holds {held} texts, where its sizes need {needed}" if held != needed else None
    if large_weights.is_reference(weight):
        return _not_a_number(large_weights.array_of(weight), in_layer=in_layer)
    try:
        if not weight.HasField("raw_data"):
            return _not_a_number(onnx.numpy_helper.to_array(weight), in_layer=in_layer)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
    except (KeyError, TypeError, ValueError) as error:
        return f"cannot be read ({first_line(error)})"
    bits = _BITS.get(weight.data_type, 8 * dtype.itemsize)
    expected = -(-math.prod(weight.dims) * bits // 8)
    if len(weight.raw_data) != expected:
        return f"holds {len(weight.raw_data)} bytes, where its type and sizes need {expected}"
    return _not_a_number(onnx.numpy_helper.to_array(weight), in_layer=in_layer)


def _not_a_number(array: NDArray[Any], *, in_layer: bool) -> str | None:
    if array.dtype.kind != "f":
        return None
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if (~np.isfinite(block) if in_layer else np.isnan(block)).any():
            return "holds values that are not finite"
        if in_layer and float(np.abs(block).max()) > LARGEST:
            return "holds values beyond 2^112, for whose sums float32 has no room"
    return None


_KINDS = onnx.AttributeProto
_SINGLE = (_KINDS.FLOAT, _KINDS.INT, _KINDS.STRING, _KINDS.TENSOR, _KINDS.GRAPH)
_LISTS = {_KINDS.FLOATS: "floats", _KINDS.INTS: "ints", _KINDS.STRINGS: "strings"}

_BITS = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}
