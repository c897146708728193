"""BatchNormalization goes into the weights before it; its statistics are recorded first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing, weights
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass_runtime.errors import ModelError


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
        recorded = dict(model.record.batch_norms) if model.record else None
        count = 0
        for node in list(model.graph.nodes):
            constants = _parameters(node)
            if constants is None:
                continue
            finite = all(np.isfinite(array).all() for array in constants.values())
            if not finite or (constants["variance"] + node.attrs.get("epsilon", 1e-5) <= 0).any():
                raise ModelError(
                    f"{editing.describe(node)} has parameters that are not finite, or a variance"
                    " of zero or less",
                    where=model.name,
                    remedy="check the statistics that it was exported with",
                )
            if recorded is not None:
                name = node.outputs[0].name
                count += name not in recorded
                recorded[name] = {
                    "mean": [float(str(v)) for v in constants["beta"]],
                    "std": [float(str(v)) for v in np.abs(constants["gamma"])],
                }
            count += _try_fold(model, node, constants)
        if recorded is not None:
            model.note(batch_norms=recorded)
        return count


def _parameters(node: gs.Node) -> dict[str, NDArray[Any]] | None:
    if not editing.is_standard(node, "BatchNormalization") or node.attrs.get("training_mode", 0):
        return None
    if editing.present(node.outputs, 1) is not None:  # training, before opset 14
        return None
    names = ("gamma", "beta", "mean", "variance")
    arrays = [editing.values(tensor) for tensor in node.inputs[1:5]]
    # More than one axis: opset 8 with statistics per position (spatial = 0).
    if len(arrays) != len(names) or any(array is None or array.ndim != 1 for array in arrays):
        return None
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _try_fold(model: Model, node: gs.Node, constants: dict[str, NDArray[Any]]) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    layer = source.inputs[0] if len(source.inputs) == 1 else None
    if layer is None or editing.single_consumer(model, source) is None:
        return False
    if not editing.is_standard(layer, "Conv", "ConvTranspose", "Gemm"):
        return False
    exact = {key: array.astype(np.float64) for key, array in constants.items()}
    gain = exact["gamma"] / np.sqrt(exact["variance"] + node.attrs.get("epsilon", 1e-5))
    if not weights.scale_outputs(model, layer, gain, exact["beta"] - exact["mean"] * gain):
        return False
    editing.detach(node)
    layer.outputs = [output]
    return True
