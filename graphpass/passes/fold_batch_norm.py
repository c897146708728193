"""BatchNormalization goes into the weights before it; its statistics are recorded first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class FoldBatchNorm(Pass):
    """W x + b followed by gamma (. - mean) / sqrt(var + eps) + beta becomes one layer.

    With s = gamma / sqrt(var + eps): W' = s W, b' = s (b - mean) + beta, per output
    channel. In training the normalised value has mean 0 and variance 1, so the output
    of the BatchNormalization has mean beta and standard deviation |gamma|: that is
    recorded under the output's name, for thresholds without data. A normalisation
    that stands after something else (pre-activation nets) stays, and is recorded too.

    New weights are new initializers: shared ones are left alone.
    """

    def apply(self, model: Model) -> int:
        """Record every normalisation, fold those that can be folded."""
        recorded = dict(model.record.batch_norms) if model.record else {}
        count = 0
        for node in list(model.graph.nodes):
            constants = _parameters(node)
            if constants is None:
                continue
            name = node.outputs[0].name
            count += name not in recorded
            recorded[name] = {
                "mean": [float(str(v)) for v in constants["beta"]],
                "std": [float(str(v)) for v in np.abs(constants["gamma"])],
            }
            count += _try_fold(model, node, constants)
        if model.record:
            model.note(batch_norms=recorded)
        return count


def _parameters(node: gs.Node) -> dict[str, NDArray[Any]] | None:
    if not editing.is_standard(node, "BatchNormalization") or node.attrs.get("training_mode", 0):
        return None
    names = ("gamma", "beta", "mean", "variance")
    arrays = [editing.values(tensor) for tensor in node.inputs[1:5]]
    if len(arrays) != len(names) or any(array is None for array in arrays):
        return None
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _try_fold(model: Model, node: gs.Node, constants: dict[str, NDArray[Any]]) -> bool:
    source = node.inputs[0]
    layer = source.inputs[0] if len(source.inputs) == 1 else None
    if layer is None or editing.single_consumer(model, source) is None:
        return False
    if not editing.is_standard(layer, "Conv", "ConvTranspose", "Gemm"):
        return False
    weight = editing.values(layer.inputs[1])
    given = editing.present(layer.inputs, 2)
    bias = np.zeros(1) if given is None else editing.values(given)
    if weight is None or bias is None or (given is not None and bias.ndim > 1):
        return False
    exact = {key: array.astype(np.float64) for key, array in constants.items()}
    scale = exact["gamma"] / np.sqrt(exact["variance"] + node.attrs.get("epsilon", 1e-5))
    if layer.op == "Gemm":
        bias = bias * layer.attrs.get("beta", 1.0)
        layer.attrs["beta"] = 1.0
    name, dtype = node.outputs[0].name, weight.dtype
    folded = (weight * _along_outputs(layer, weight, scale)).astype(dtype)
    offset = ((bias - exact["mean"]) * scale + exact["beta"]).astype(dtype)
    output = node.outputs[0]
    editing.detach(node)
    layer.inputs = [
        layer.inputs[0],
        editing.constant(model, f"{name}/weight", folded),
        editing.constant(model, f"{name}/bias", offset),
    ]
    layer.outputs = [output]
    return True


def _along_outputs(layer: gs.Node, weight: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
    """`scale` in a shape that multiplies the output channels of the weight."""
    if layer.op == "Conv":
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op == "Gemm":
        return scale.reshape(-1, 1) if layer.attrs.get("transB", 0) else scale.reshape(1, -1)
    # ConvTranspose: [C_in, C_out / group, ...], input channels of one group together.
    groups = int(layer.attrs.get("group", 1))
    per_group = np.repeat(scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return per_group.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
