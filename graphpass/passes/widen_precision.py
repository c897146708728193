"""A network in half precision is converted in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass

_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)
_TO_HALF, _TO_SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


class WidenPrecision(Pass):
    """float16 weights and tensors become float32; inputs and outputs keep their type.

    Neurons compare potentials with thresholds, and float16 has eleven bits for both. Every
    float16 number is a float32 number, so that only intermediate roundings go away.
    """

    def apply(self, model: Model) -> int:
        """Weights and casts of all levels, then the interface."""
        graphs = [model.graph, *model.graph.subgraphs(recursive=True)]
        count = sum(_widen_weights(graph) + _widen_casts(graph) for graph in graphs)
        inputs = [tensor for tensor in model.graph.inputs if tensor.dtype == _HALF]
        outputs = [tensor for tensor in model.graph.outputs if tensor.dtype == _HALF]
        if not count and not inputs:
            return 0
        for tensor in inputs:
            _cast_input(model, tensor)
        for tensor in outputs:
            _cast_output(model, tensor)
        return count + len(inputs) + len(outputs)


def _widen_weights(graph: gs.Graph) -> int:
    count = 0
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.dtype == _HALF:
            tensor.values = np.asarray(tensor.values).astype(_SINGLE)
            count += 1
    return count


def _widen_casts(graph: gs.Graph) -> int:
    count = 0
    for node in graph.nodes:
        for key, value in list(node.attrs.items()):
            widened = _widened(node, key, value)
            if widened is not None:
                node.attrs[key] = widened
                count += 1
    return count


def _widened(node: gs.Node, key: str, value: Any) -> Any:
    """The attribute in single precision, None if it has nothing to do with half."""
    if key in ("to", "dtype") and value == _TO_HALF and not isinstance(value, float):
        return _TO_SINGLE
    if key == "to" and value == _HALF and node.op == "Cast":
        return _TO_SINGLE
    if isinstance(value, gs.Constant) and value.dtype == _HALF:
        return gs.Constant(value.name, np.asarray(value.values).astype(_SINGLE))
    return None


def _cast_input(model: Model, tensor: gs.Tensor) -> None:
    single = gs.Variable(editing.fresh_name(model, f"{tensor.name}/single"), _SINGLE, tensor.shape)
    editing.redirect(model, tensor, single)
    model.graph.nodes.insert(
        0, gs.Node("Cast", single.name, {"to": _TO_SINGLE}, [tensor], [single])
    )


def _cast_output(model: Model, tensor: gs.Tensor) -> None:
    single = gs.Variable(editing.fresh_name(model, f"{tensor.name}/single"), _SINGLE, tensor.shape)
    for node in list(tensor.inputs):
        node.outputs = [single if output is tensor else output for output in node.outputs]
    for node in list(tensor.outputs):
        node.inputs = [single if source is tensor else source for source in node.inputs]
    model.graph.nodes.append(gs.Node("Cast", tensor.name, {"to": _TO_HALF}, [single], [tensor]))
