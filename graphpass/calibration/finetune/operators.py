"""ONNX operators as differentiable torch functions: the registry, and what computes.

An interpreter of our own rather than a converter library: the graph in hand is stage 2,
with neurons as local functions, and what was learned must go back into its initializers.
onnx2torch, the only one that is installed with pip and read by torch's users, had its last
release in August 2024, knows no local functions, copies weights into modules that forget
which initializer they came from, and brings torchvision. What is needed is small: the
operators that time can pass through, and a few that stand before and behind the neurons.

Semantics are those of the ONNX operator specifications; `tests/calibration/finetune`
compares each with ONNX Runtime.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor
from torch.nn import functional

from graphpass import dialect, editing
from graphpass.calibration.finetune import rounding
from graphpass_runtime.errors import ModelError


@dataclass(frozen=True, eq=False)
class Call:
    """A node with the values of its inputs (None for inputs that are left out).

    Attributes:
        node: the node.
        inputs: values of its inputs.
        opset: version of the standard operator set.
        where: what to call the model in an error.
    """

    node: gs.Node
    inputs: Sequence[Tensor | None]
    opset: int
    where: str

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.tensor(0)

    def tensor(self, index: int) -> Tensor:
        """An input that must be there."""
        found = self.inputs[index]
        assert found is not None, "a mandatory input is left out"
        return found

    def optional(self, index: int) -> Tensor | None:
        """An input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.node.attrs.get(name, default)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Integers that are an attribute in old opsets and an input in new ones."""
        if name in self.node.attrs:
            return [int(number) for number in self.node.attrs[name]]
        given = self.optional(index)
        return None if given is None else [int(number) for number in given.reshape(-1).tolist()]

    def refusal(self, reason: str) -> ModelError:
        """The error that says why this node cannot be trained through."""
        return ModelError(
            f"{editing.describe(self.node)} {reason}",
            where=self.where,
            remedy="use --calibrate optimal",
        )


Operator = Callable[[Call], Tensor | Sequence[Tensor]]

_OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register the function of these ONNX operators."""

    def register(function: Operator) -> Operator:
        for name in names:
            assert name not in _OPERATORS, f"two functions for {name}"
            _OPERATORS[name] = function
        return function

    return register


def find_operator(node: gs.Node) -> Operator | None:
    """The function of a node, None when there is none. Neurons are not among them."""
    if editing.is_dialect(node, dialect.QCFS):
        return _qcfs
    return _OPERATORS.get(node.op) if editing.is_standard(node, node.op) else None


_ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Dropout": lambda x: x,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "MatMul": torch.matmul,
    "Pow": torch.pow,
}
_FOLDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


@operator(*_ELEMENTWISE)
def _elementwise(call: Call) -> Tensor:
    return _ELEMENTWISE[call.node.op](call.x)


@operator(*_PAIRWISE)
def _pairwise(call: Call) -> Tensor:
    return _PAIRWISE[call.node.op](call.x, call.tensor(1))


@operator(*_FOLDED)
def _fold(call: Call) -> Tensor:
    tensors = (call.tensor(index) for index in range(len(call.inputs)))
    return functools.reduce(_FOLDED[call.node.op], tensors)


@operator("Mean")
def _mean(call: Call) -> Tensor:
    tensors = [call.tensor(index) for index in range(len(call.inputs))]
    return functools.reduce(torch.add, tensors) / len(tensors)


@operator("Where")
def _where(call: Call) -> Tensor:
    return torch.where(call.x, call.tensor(1), call.tensor(2))


@operator("Div")
def _div(call: Call) -> Tensor:
    whole = not call.x.is_floating_point()
    return torch.div(call.x, call.tensor(1), rounding_mode="trunc" if whole else None)


@operator("Clip")
def _clip(call: Call) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    low = torch.tensor(call.attr("min")) if "min" in call.node.attrs else low
    high = torch.tensor(call.attr("max")) if "max" in call.node.attrs else high
    return call.x if low is None and high is None else torch.clamp(call.x, low, high)


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Tensor:
    return functional.leaky_relu(call.x, call.attr("alpha", 0.01))


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Tensor:
    return torch.clamp(call.attr("alpha", 0.2) * call.x + call.attr("beta", 0.5), 0.0, 1.0)


@operator("Cast")
def _cast(call: Call) -> Tensor:
    kinds: dict[int, torch.dtype] = {
        onnx.TensorProto.FLOAT: torch.float32,
        onnx.TensorProto.DOUBLE: torch.float64,
        onnx.TensorProto.INT32: torch.int32,
        onnx.TensorProto.INT64: torch.int64,
        onnx.TensorProto.BOOL: torch.bool,
    }
    kind = kinds.get(int(call.attr("to")))
    if kind is None:
        raise call.refusal("casts to a type that finetuning does not know")
    return call.x.to(kind)


@operator("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Tensor:
    function = torch.softmax if call.node.op == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return function(call.x, call.attr("axis", -1))
    # Until opset 12 all axes from `axis` on are one.
    axis = call.attr("axis", 1) % call.x.ndim
    return function(call.x.flatten(axis), axis).reshape(call.x.shape)


@operator("Gemm")
def _gemm(call: Call) -> Tensor:
    a = call.x.T if call.attr("transA", 0) else call.x
    b = call.tensor(1).T if call.attr("transB", 0) else call.tensor(1)
    bias, alpha, beta = call.optional(2), call.attr("alpha", 1.0), call.attr("beta", 1.0)
    product: Tensor = alpha * (a @ b)
    return product if bias is None else product + beta * bias


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Tensor:
    if call.attr("training_mode", 0):
        raise call.refusal("normalises in training mode")
    scale, bias, mean, variance = (call.tensor(index) for index in range(1, 5))
    epsilon = call.attr("epsilon", 1e-5)
    return functional.batch_norm(call.x, mean, variance, scale, bias, eps=epsilon)


@operator("ReduceMean", "ReduceSum")
def _reduce(call: Call) -> Tensor:
    axes, keep = call.numbers("axes", 1), bool(call.attr("keepdims", 1))
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            return call.x
        axes = list(range(call.x.ndim))
    mean = call.node.op == "ReduceMean"
    return call.x.mean(axes, keep) if mean else call.x.sum(axes, keepdim=keep)


def _qcfs(call: Call) -> Tensor:
    """A layer that was trained with QCFS, or as a quantiser, and stays analog."""
    threshold, levels = call.tensor(1), call.tensor(2)
    ties = dialect.ties_of(call.node.op)
    count = rounding.spike_count(call.x * (levels / threshold), float(levels), ties)
    return count * (threshold / levels)
