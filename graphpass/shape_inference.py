"""Shapes and dtypes of all tensors, from ONNX's inference and our own shape arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_graphsurgeon as gs

from graphpass import batch
from graphpass.admission import without_weights
from graphpass.shape_values import shape_values

#: Operators whose output has a shape that is the value of an input.
_SHAPED_BY_VALUES = frozenset(
    "ConstantOfShape Expand Pad Range Reshape Resize Slice Split Tile".split()
)
#: Operators that ONNX Runtime has on its own, in the domain com.microsoft or before ONNX had them.
KEEP_SHAPE = frozenset(
    "BiasGelu BiasSoftmax FastGelu Gelu LayerNormalization QuickGelu RotaryEmbedding"
    " SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization".split()
)
#: The same of ai.onnx.ml, and what they compute; None for what they read.
_PREPROCESSING = {"Binarizer": None, "Imputer": None, "Normalizer": 1, "Scaler": 1}


def fill_in(graph: gs.Graph, proto: onnx.ModelProto) -> None:
    """Set dtype and shape of every tensor of a graph, and mend those of its outputs.

    ONNX's inference runs with a number for the batch (see `batch`), and again whenever
    the shapes that it found make shape arithmetic known that it did not follow itself.
    Its own following of values (data_prop) would make a list of a vector over the batch.
    Weights of more than a kilobyte are left out of what it sees, so that the cost does
    not depend on the size of the model.

    Args:
        graph: the editing view.
        proto: the same as protobuf; it is used up.

    Raises:
        InferenceError, ValueError, RuntimeError: ONNX's inference failed.
    """
    del proto.graph.value_info[:]
    interface = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in interface:
            tensor.shape = None
    _describe_contributed(proto)
    proto = _with_numbers(without_weights(proto), batch.symbol_of(graph))
    told: set[str] = set()
    while True:
        inferred = onnx.shape_inference.infer_shapes(proto)
        _take_shapes(graph, inferred, interface)
        if not _tell_values(proto, graph, told):
            return


def _describe_contributed(proto: onnx.ModelProto) -> None:
    """Write an Identity, or a Cast, for operators that keep the shape of their input."""
    opset = next((o.version for o in proto.opset_import if not o.domain), 1)
    for node in proto.graph.node:
        known = not node.domain and onnx.defs.has(node.op_type, opset, "")
        if node.op_type in KEEP_SHAPE and node.domain in ("", "com.microsoft") and not known:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.output[1:], node.attribute[:]
        elif node.domain == "ai.onnx.ml" and node.op_type in _PREPROCESSING:
            dtype = _PREPROCESSING[node.op_type]
            node.op_type, node.domain = "Cast" if dtype else "Identity", ""
            del node.attribute[:]
            if dtype:
                node.attribute.append(onnx.helper.make_attribute("to", dtype))


def _with_numbers(proto: onnx.ModelProto, symbol: str | None) -> onnx.ModelProto:
    """The batch of the inputs as a number; outputs are left to the inference."""
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if symbol is not None and dim.dim_param == symbol:
                dim.dim_value = batch.PROBE
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto


def _take_shapes(graph: gs.Graph, inferred: onnx.ModelProto, interface: set[int]) -> None:
    symbol, known = batch.symbol_of(graph), graph.tensors()
    for value in inferred.graph.value_info:
        tensor = known.get(value.name)
        found = value.type.HasField("tensor_type") and id(tensor) not in interface
        if found and isinstance(tensor, gs.Variable):
            tensor.dtype = _numpy_dtype(value.type.tensor_type.elem_type)
            sizes = _dims(value.type.tensor_type)
            tensor.shape = sizes and [
                batch.to_size(s, symbol) if isinstance(s, int) else s for s in sizes
            ]
            if sizes == []:
                tensor.shape = []
    # What a file says of its outputs is not always so.
    for tensor, value in zip(graph.outputs, inferred.graph.output, strict=True):
        sizes, said = _dims(value.type.tensor_type), list(tensor.shape or ())
        if sizes is not None:
            found_sizes = [batch.to_size(s, symbol) if isinstance(s, int) else s for s in sizes]
            agrees = len(said) == len(sizes)
            tensor.shape = [
                said[i] if agrees and not isinstance(size, int) else size
                for i, size in enumerate(found_sizes)
            ]


def _tell_values(proto: onnx.ModelProto, graph: gs.Graph, told: set[str]) -> bool:
    """Put shape arithmetic into the graph as numbers; was there any that is new?

    Only where a node's output shape hangs on it, and where all of it is known.
    """
    values = shape_values(graph)
    count = len(told)
    for node in proto.graph.node:
        for name in node.input:
            if name not in values or name in told or node.op_type not in _SHAPED_BY_VALUES:
                continue
            if all(isinstance(size, int) for size in values[name].ravel()):
                told.add(name)
    if len(told) == count:
        return False
    tensors = graph.tensors()
    for name in sorted(told):
        array = values[name].astype(tensors[name].dtype or np.int64)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}/known"))
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name in told and node.op_type in _SHAPED_BY_VALUES:
                node.input[index] = f"{name}/known"
    return True


def _dims(tensor_type: onnx.TypeProto.Tensor) -> list[int | str | None] | None:
    if not tensor_type.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None)
        for d in tensor_type.shape.dim
    ]


def _numpy_dtype(elem_type: int) -> Any:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        return None
