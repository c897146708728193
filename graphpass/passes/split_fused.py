"""What ONNX Runtime fused into one of its own operators becomes standard operators again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model, infer_shapes
from graphpass.passes.base import Pass

_DOMAIN = "com.microsoft"
_PLAIN = ("Relu", "Sigmoid", "Tanh")


class SplitFused(Pass):
    """FusedConv, FusedGemm, FusedMatMul and QuickGelu, as optimised files have them.

    An activation that is not one of those that ONNX Runtime fuses stays fused.
    """

    def apply(self, model: Model) -> int:
        """Every one of them."""
        count = 0
        while split := sum(_try_split(model, node) for node in list(model.graph.nodes)):
            count += split
            if not any(node.domain == _DOMAIN for node in model.graph.nodes):
                break
            model.graph.toposort()
            infer_shapes(model)  # what is behind one of them may be known now
        return count


def _try_split(model: Model, node: gs.Node) -> bool:
    split = _SPLITS.get(node.op) if node.domain == _DOMAIN else None
    return split is not None and split(model, node)


def _fused_conv(model: Model, node: gs.Node) -> bool:
    name, parameters = _text(node, "activation"), list(node.attrs.get("activation_params", []))
    activation = _activation(model, node, name, parameters)
    if activation is None:
        return False
    summand = editing.present(node.inputs, 3)
    attrs = {k: v for k, v in node.attrs.items() if not k.startswith("activation")}
    inputs = list(node.inputs)[:3]
    while inputs and inputs[-1].is_empty():
        inputs.pop()
    steps = [gs.Node("Conv", node.name, attrs, inputs)]
    if summand is not None:
        steps.append(gs.Node("Add", f"{node.name}/sum", inputs=[summand]))
    return _replace(model, node, [*steps, activation])


def _fused_gemm(model: Model, node: gs.Node) -> bool:
    name = _text(node, "activation")
    given = [node.attrs.get(f"activation_{key}") for key in ("alpha", "beta", "gamma")]
    activation = _activation(model, node, name, [value for value in given if value is not None])
    if activation is None:
        return False
    attrs = {k: v for k, v in node.attrs.items() if not k.startswith("activation")}
    return _replace(model, node, [gs.Node("Gemm", node.name, attrs, list(node.inputs)), activation])


def _fused_matmul(model: Model, node: gs.Node) -> bool:
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        return False
    operands = list(node.inputs)
    for index, key in enumerate(("transA", "transB")):
        rank = len(operands[index].shape or ())
        if not node.attrs.get(key, 0) or rank == 1:
            continue
        if rank == 0:
            return False
        swapped = gs.Variable(editing.fresh_name(model, f"{node.outputs[0].name}/{key}"))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        model.graph.nodes.append(
            gs.Node("Transpose", swapped.name, {"perm": perm}, [operands[index]], [swapped])
        )
        operands[index] = swapped
    steps = [gs.Node("MatMul", node.name, inputs=operands)]
    if (alpha := float(node.attrs.get("alpha", 1.0))) != 1.0:
        factor = editing.constant(model, f"{node.name}/alpha", np.array(alpha, np.float32))
        steps.append(gs.Node("Mul", f"{node.name}/scaled", inputs=[factor]))
    return _replace(model, node, steps)


def _quick_gelu(model: Model, node: gs.Node) -> bool:
    """Computes x * Sigmoid(alpha x), which is SiLU for alpha 1."""
    source, name = node.inputs[0], node.outputs[0].name
    alpha = float(node.attrs.get("alpha", 1.702))
    steps = [gs.Node("Sigmoid", f"{name}/gate"), gs.Node("Mul", node.name, inputs=[source])]
    if alpha == 1.0:
        steps[0].inputs = [source]
    else:
        factor = editing.constant(model, f"{name}/alpha", np.array(alpha, np.float32))
        steps.insert(0, gs.Node("Mul", f"{name}/slope", inputs=[source, factor]))
    return _replace(model, node, steps)


def _activation(model: Model, node: gs.Node, name: str, parameters: list[Any]) -> gs.Node | None:
    """The activation as a node without inputs and outputs, None if it is not known."""
    label = f"{node.name or node.outputs[0].name}/{name}"
    if name in _PLAIN:
        return gs.Node(name, label)
    if name == "LeakyRelu" and parameters:
        return gs.Node(name, label, {"alpha": float(parameters[0])})
    if name == "HardSigmoid" and len(parameters) > 1:
        return gs.Node(
            name, label, dict(zip(("alpha", "beta"), map(float, parameters), strict=False))
        )
    if name != "Clip" or len(parameters) < 2:
        return None
    bounds = [float(value) for value in parameters[:2]]
    if model.opset < 11:
        return gs.Node("Clip", label, {"min": bounds[0], "max": bounds[1]})
    low, high = (
        editing.constant(model, f"{label}/{end}", np.array(bound, np.float32))
        for end, bound in zip(("min", "max"), bounds, strict=True)
    )
    return gs.Node("Clip", label, inputs=[low, high])


def _replace(model: Model, node: gs.Node, steps: list[gs.Node]) -> bool:
    """A chain: each step reads, in front of its own inputs, what the one before it gives."""
    (output,) = node.outputs
    position = model.graph.nodes.index(node)
    editing.detach(node)
    for index, step in enumerate(steps):
        if index:
            passed = gs.Variable(editing.fresh_name(model, f"{output.name}/{index}"))
            steps[index - 1].outputs = [passed]
            step.inputs = [passed, *step.inputs]
    steps[-1].outputs = [output]
    model.graph.nodes[position : position + 1] = steps
    return True


def _text(node: gs.Node, key: str) -> str:
    value = node.attrs.get(key, "")
    return value.decode() if isinstance(value, bytes) else str(value)


_SPLITS: dict[str, Callable[[Model, gs.Node], bool]] = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "QuickGelu": _quick_gelu,
}
