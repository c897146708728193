"""Stage 4, form `counts`: float16 inside, the same float32 inputs and outputs outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from graphpass import editing, weights
from graphpass.model import Model, to_proto
from graphpass.passes.base import Pass
from graphpass_runtime.errors import ModelError

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)
# Inputs from this index on are float32 whatever the data is.
_ALWAYS_FLOAT32 = {"Resize": 1, "Upsample": 1}


class HalvePrecision(Pass):
    """Every float32 weight and inner tensor becomes float16; inputs and outputs are cast.

    Counts are exact in float16 up to 2048. Currents are not: a potential of about T has
    an absolute error of about T/2048, which moves counts at near ties. This is a close
    network, to be judged by its accuracy.

    A channel that never fired has weights, in units of its tiny threshold, that can be
    beyond float16. They are scaled down together, which keeps the sign of the potential:
    it is far outside 0..T either way. What is beyond float16 elsewhere becomes its
    largest number.
    """

    def requires(self, model: Model) -> None:
        """Nothing but plain operators: bodies of control flow are not looked into."""
        for node in model.graph.nodes:
            if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
                raise _refused(model, f"{editing.describe(node)} holds graphs of its own")
            first = _ALWAYS_FLOAT32.get(node.op, len(node.inputs))
            for tensor in node.inputs[first:]:
                if not isinstance(tensor, gs.Constant) and not tensor.is_empty():
                    raise _refused(model, f"{editing.describe(node)} computes its scales")

    def apply(self, model: Model) -> int:
        """Weights, then attributes, then the ends of the graph."""
        assert model.record is not None, "stage 4 has a record"
        if model.record.precision == "fp16":
            return 0
        saturated = sum(_shrink_channels(model, node) for node in model.graph.nodes)
        saturated += _halve_weights(model)
        for node in model.graph.nodes:
            _halve_attributes(node)
        for tensor in model.graph.tensors().values():
            if isinstance(tensor, gs.Variable) and not _is_end(model, tensor):
                tensor.dtype = None  # inferred anew
        for tensor in list(model.graph.inputs):
            if tensor.dtype == np.float32:
                _cast_input(model, tensor)
        for tensor in list(model.graph.outputs):
            if tensor.dtype == np.float32 and tensor.inputs:
                _cast_output(model, tensor)
        model.note(
            precision="fp16",
            calibration={
                **model.record.calibration,
                **({"saturated": saturated} if saturated else {}),
            },
        )
        return 1

    def ensures(self, model: Model) -> None:
        """No operator is left with inputs of two types, or with one that it cannot take."""
        try:
            onnx.shape_inference.infer_shapes(to_proto(model), check_type=True, strict_mode=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise _refused(model, f"an operator takes no float16 ({reason})") from error


def _refused(model: Model, reason: str) -> ModelError:
    return ModelError(
        f"cannot be written in fp16: {reason}", where=model.name, remedy="use --precision fp32"
    )


def _shrink_channels(model: Model, node: gs.Node) -> int:
    """Bring output channels of a layer into the range of float16; how many."""
    largest = weights.largest_per_output(node)
    if largest is None or largest.max(initial=0.0) <= _LARGEST:
        return 0
    # A little below the limit, for scaling rounds.
    gain = np.minimum(1.0, 0.999 * _LARGEST / np.maximum(largest, 1.0))
    shrunk = weights.scale_outputs(model, node, gain, np.zeros(1))
    return int((gain < 1.0).sum()) if shrunk else 0


def _halve_weights(model: Model) -> int:
    """New constants instead of the old ones, which may be shared; how many values saturated."""
    halves: dict[int, gs.Constant] = {}
    saturated = 0
    for node in model.graph.nodes:
        last = _ALWAYS_FLOAT32.get(node.op, len(node.inputs))
        for index, tensor in enumerate(node.inputs[:last]):
            if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32:
                continue
            if id(tensor) not in halves:
                array = np.asarray(tensor.values)
                saturated += int((np.abs(array) > _LARGEST).sum())
                small = np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
                halves[id(tensor)] = editing.constant(model, f"{tensor.name}/fp16", small)
            node.inputs[index] = halves[id(tensor)]
    return saturated


def _halve_attributes(node: gs.Node) -> None:
    """Operators that name the type of what they write."""
    for name in ("to", "dtype"):
        if editing.is_standard(node, node.op) and _is_type(node.attrs.get(name), _FLOAT):
            node.attrs[name] = _HALF
    value: Any = node.attrs.get("value")
    if isinstance(value, gs.Constant) and value.dtype == np.float32:
        node.attrs["value"] = gs.Constant(value.name, np.asarray(value.values).astype(np.float16))


def _is_type(value: Any, kind: int) -> bool:
    if isinstance(value, int):
        return value == kind
    return value is not None and not isinstance(value, str) and value == np.float32


def _is_end(model: Model, tensor: gs.Tensor) -> bool:
    return any(tensor is end for end in [*model.graph.inputs, *model.graph.outputs])


def _cast_input(model: Model, tensor: gs.Tensor) -> None:
    name = editing.fresh_name(model, f"{tensor.name}/fp16")
    half = gs.Variable(name, np.dtype(np.float16), tensor.shape)
    for node in list(tensor.outputs):
        for index, read in enumerate(node.inputs):
            if read is tensor:
                node.inputs[index] = half
    cast = gs.Node("Cast", name, {"to": _HALF}, inputs=[tensor], outputs=[half])
    model.graph.nodes.append(cast)


def _cast_output(model: Model, tensor: gs.Tensor) -> None:
    """What wrote the output writes a float16 tensor, which is cast under the output's name."""
    name = editing.fresh_name(model, f"{tensor.name}/fp16")
    half = gs.Variable(name, np.dtype(np.float16), tensor.shape)
    (writer,) = tensor.inputs
    writer.outputs[next(i for i, t in enumerate(writer.outputs) if t is tensor)] = half
    for node in list(tensor.outputs):
        for index, read in enumerate(node.inputs):
            if read is tensor:
                node.inputs[index] = half
    cast = gs.Node("Cast", name, {"to": _FLOAT}, inputs=[half], outputs=[tensor])
    model.graph.nodes.append(cast)
