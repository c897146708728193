"""Rules of operators of quantised networks: where they do more than pass values on, a refusal."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.timeflow.types import Refusal
from graphpass.timeflow.view import Verdict, View, rule

_INTEGER = Refusal(
    "computes on integers, which hides the activations in it",
    "quantise with QuantizeLinear and DequantizeLinear around float operators"
    " (quant_format=QuantFormat.QDQ in ONNX Runtime), or convert the float network",
)
_INTEGER_OPERATORS = "ConvInteger MatMulInteger QLinearConv QLinearMatMul".split()
_GRID = Refusal(
    "rounds a current to a grid that no neuron has",
    "quantise activations with positive float32 scales, one zero point and the whole range of an"
    " integer type, in opset 11 or newer, or try --rounded-currents drop",
)


def is_integer(node: gs.Node) -> bool:
    """Does an operator take integers and scales, and give integers?"""
    extended = node.domain == "com.microsoft" and str(node.op).startswith(("QLinear", "QGemm"))
    return extended or (node.domain in (None, "", "ai.onnx") and node.op in _INTEGER_OPERATORS)


def hides_activations(node: gs.Node, opset: int) -> Refusal | None:
    """Why no activation is seen in a quantiser, if so."""
    if is_integer(node):
        return _INTEGER
    rounds = editing.is_standard(node, "QuantizeLinear")
    return _GRID if rounds and opset < dialect.OLDEST_HALF_EVEN else None


@rule(*_INTEGER_OPERATORS)
def integer_layer(_view: View) -> Verdict:
    """Rounding to integers is not linear."""
    return _INTEGER


@rule("DynamicQuantizeLinear")
def dynamic_quantiser(_view: View) -> Verdict:
    """Its scale is the range of each tensor."""
    return Refusal(
        "rounds to a scale that it takes from each tensor anew",
        "quantise statically, or quantise weights only",
    )


@rule("QuantizeLinear", "DequantizeLinear")
def quantiser(view: View) -> Verdict:
    """What no pass took for a neuron."""
    readers = [reader for output in view.node.outputs for reader in output.outputs]
    integer = next((reader for reader in readers if is_integer(reader)), None)
    if view.varying and integer is not None:
        return Refusal(f"hands integers to {integer.op}", _INTEGER.remedy)
    return _GRID if view.varying else view.type()
