"""GELU as onnxruntime's own tools fuse it, written in standard operators again."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass

_DOMAIN = "com.microsoft"
_OPERATORS = ("BiasGelu", "FastGelu", "Gelu")
_OLDEST_OPSET = 9  # the first with Erf


class SpellGelu(Pass):
    """`com.microsoft` Gelu and its variants become what they are defined as.

    Gelu(x) = x/2 (1 + erf(x / sqrt 2)), FastGelu(x) = x/2 (1 + tanh(0.7978845608 (x +
    0.044715 x^3))); BiasGelu is Gelu of x + bias, and FastGelu may have a bias too. Then
    shapes are known behind them, and any runtime can run the result. QuickGelu is SplitFused's.
    """

    def apply(self, model: Model) -> int:
        """Each node on its own."""
        return sum(_try_spell(model, node) for node in list(model.graph.nodes))


def _try_spell(model: Model, node: gs.Node) -> bool:
    if node.domain != _DOMAIN or node.op not in _OPERATORS or model.opset < _OLDEST_OPSET:
        return False
    write = _Writer(model, node.outputs[0])
    source = node.inputs[0]
    if (bias := editing.present(node.inputs, 1)) is not None:
        source = write("Add", source, bias)
    bell = _tanh(write, source) if node.op == "FastGelu" else _erf(write, source)
    product = (write("Mul", source, 0.5), write("Add", bell, 1.0))
    (output,) = node.outputs
    editing.detach(node)
    model.graph.nodes.append(gs.Node("Mul", output.name, inputs=[*product], outputs=[output]))
    return True


class _Writer:
    """Appends nodes named after the output that they lead to."""

    def __init__(self, model: Model, output: gs.Tensor) -> None:
        self._model = model
        self._name = output.name
        self._dtype = output.dtype or np.dtype(np.float32)

    def __call__(self, op: str, *operands: gs.Tensor | float) -> gs.Variable:
        name = editing.fresh_name(self._model, f"{self._name}/{op}")
        inputs = [
            editing.constant(self._model, f"{name}/constant", np.array(value, self._dtype))
            if isinstance(value, float)
            else value
            for value in operands
        ]
        result = gs.Variable(name, self._dtype)
        self._model.graph.nodes.append(gs.Node(op, name, inputs=inputs, outputs=[result]))
        return result


def _erf(write: _Writer, source: gs.Tensor) -> gs.Variable:
    return write("Erf", write("Mul", source, math.sqrt(0.5)))


def _tanh(write: _Writer, source: gs.Tensor) -> gs.Variable:
    cube = write("Mul", write("Mul", source, source), source)
    summed = write("Add", source, write("Mul", cube, 0.044715))
    return write("Tanh", write("Mul", summed, 0.7978845608028654))
