"""A network in half, double or brain floating point is converted in single precision."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.weights import LAYERS
from graphpass_runtime.errors import ModelError

_HALF, _SINGLE, _DOUBLE = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
_BRAIN = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
_CODES = {
    _HALF: onnx.TensorProto.FLOAT16,
    _DOUBLE: onnx.TensorProto.DOUBLE,
    _BRAIN: onnx.TensorProto.BFLOAT16,
}
_TO_SINGLE = onnx.TensorProto.FLOAT
_LARGEST = np.finfo(np.float32).max


class UnifyPrecision(Pass):
    """Weights and tensors of other floating types become float32.

    Neurons compare potentials with thresholds, and float16 has eleven bits for both, bfloat16
    eight. Each of their numbers is a float32 number, so that only intermediate roundings go
    away. A network whose layers have float64 weights gets those of 24 bits; double numbers
    beside a float32 network are left alone, for they may be arithmetic of sizes.

    Inputs and outputs keep their type; of bfloat16, which NumPy does not have, they become
    float32.
    """

    def apply(self, model: Model) -> int:
        """Weights and casts of all levels, then the interface."""
        graphs = [model.graph, *model.graph.subgraphs(recursive=True)]
        others = [_HALF, _BRAIN] + [_DOUBLE] * any(_is_double(graph) for graph in graphs)
        count = sum(_unify_weights(g, others) + _unify_casts(g, others) for g in graphs)
        interface = [*model.graph.inputs, *model.graph.outputs]
        if not count and not any(_dtype(tensor) in others for tensor in model.graph.inputs):
            return 0
        _relabel(graphs, others, {id(tensor) for tensor in interface})
        for tensor in interface:
            if _dtype(tensor) == _BRAIN:
                tensor.dtype = _SINGLE
                count += 1
        for tensor in [tensor for tensor in model.graph.inputs if _dtype(tensor) in others]:
            _cast_input(model, tensor)
            count += 1
        for tensor in [tensor for tensor in model.graph.outputs if _dtype(tensor) in others]:
            _cast_output(model, tensor)
            count += 1
        return count


def _dtype(tensor: gs.Tensor) -> Any:
    """NumPy's type; graphsurgeon has a number for what NumPy does not have itself."""
    return _BRAIN if tensor.dtype == _CODES[_BRAIN] else tensor.dtype


def _relabel(graphs: list[gs.Graph], others: list[np.dtype[Any]], kept: Set[int]) -> None:
    """What is computed in between is single now, whatever the file or an inference called it."""
    for graph in graphs:
        tensors = [*graph.tensors().values(), *graph.inputs, *graph.outputs]
        for tensor in tensors:
            inner = isinstance(tensor, gs.Variable) and id(tensor) not in kept
            if inner and _dtype(tensor) in others:
                tensor.dtype = _SINGLE


def _is_double(graph: gs.Graph) -> bool:
    layers = [node for node in graph.nodes if editing.is_standard(node, *LAYERS)]
    weights = [node.inputs[1] for node in layers]
    return any(isinstance(w, gs.Constant) and w.dtype == _DOUBLE for w in weights)


def _unify_weights(graph: gs.Graph, others: list[np.dtype[Any]]) -> int:
    count = 0
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and _dtype(tensor) in others:
            tensor.values = _single(tensor)
            count += 1
    return count


def _single(tensor: gs.Constant) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The values as float32; what stands for "very large" in a mask is the largest number."""
    values = np.asarray(tensor.values)
    if values.dtype == _DOUBLE:
        large = np.isfinite(values) & (np.abs(values) > _LARGEST)
        if large.any() and any(node.op in LAYERS for node in tensor.outputs):
            raise ModelError(
                f"weight '{tensor.name}' has values that float32 does not hold",
                remedy="scale the weights down, or export the model in float32",
            )
        values = np.where(large, np.clip(values, -_LARGEST, _LARGEST), values)
    return values.astype(_SINGLE)


def _unify_casts(graph: gs.Graph, others: list[np.dtype[Any]]) -> int:
    count = 0
    for node in graph.nodes:
        for key, value in list(node.attrs.items()):
            unified = _unified(node, key, value, others)
            if unified is not None:
                node.attrs[key] = unified
                count += 1
    return count


def _unified(node: gs.Node, key: str, value: Any, others: list[np.dtype[Any]]) -> Any:
    """The attribute in single precision, None if it has nothing to do with other types."""
    codes = [_CODES[dtype] for dtype in others]
    if key in ("to", "dtype") and value in codes and not isinstance(value, float):
        return _TO_SINGLE
    if key == "to" and node.op == "Cast" and value in others:
        return _TO_SINGLE
    if isinstance(value, gs.Constant) and _dtype(value) in others:
        return gs.Constant(value.name, _single(value))
    return None


def _cast_input(model: Model, tensor: gs.Tensor) -> None:
    single = gs.Variable(editing.fresh_name(model, f"{tensor.name}/single"), _SINGLE, tensor.shape)
    editing.redirect(model, tensor, single)
    model.graph.nodes.insert(
        0, gs.Node("Cast", single.name, {"to": _TO_SINGLE}, [tensor], [single])
    )


def _cast_output(model: Model, tensor: gs.Tensor) -> None:
    single = gs.Variable(editing.fresh_name(model, f"{tensor.name}/single"), _SINGLE, tensor.shape)
    code = _CODES[np.dtype(tensor.dtype)]
    for node in list(tensor.inputs):
        node.outputs = [single if output is tensor else output for output in node.outputs]
    for node in list(tensor.outputs):
        node.inputs = [single if source is tensor else source for source in node.inputs]
    model.graph.nodes.append(gs.Node("Cast", tensor.name, {"to": code}, [single], [tensor]))
