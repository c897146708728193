"""Means and variances through single operators; see `moment_graph` for what they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass import dialect
from graphpass.calibration import normal, statistics
from graphpass_runtime.errors import ModelError

_DOMAIN = "graphpass.moments"
_MOVES = frozenset(
    "Identity Dropout Cast Flatten Reshape Transpose Squeeze Unsqueeze Slice Gather Split"
    " Concat Tile DepthToSpace SpaceToDepth Pad".split()
)
_WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_AVERAGES = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean"))
_MAXIMA = frozenset(("MaxPool", "GlobalMaxPool"))
_ACTIVATIONS = frozenset(("Relu", "Clip"))
_OF_SEVERAL = frozenset(("Concat", "Add", "Sub", "Sum", "Mul", "Div"))
_NO_BOUND = 1e18  # its square is a float32 still

# y = Clip(x, 0, c) of a normal x, with a = -mean/spread and b = (c - mean)/spread:
#   E y   = mean (Phi b - Phi a) + spread (phi a - phi b) + c (1 - Phi b)
#   E y^2 = (mean^2 + variance)(Phi b - Phi a) + 2 mean spread (phi a - phi b)
#           + variance (a phi a - b phi b) + c^2 (1 - Phi b)
_CLIPPED = """
    tiny = Constant <value = float {1e-30}> ()
    zero = Constant <value = float {0.0}> ()
    half = Constant <value = float {0.5}> ()
    two = Constant <value = float {2.0}> ()
    far = Constant <value = float {20.0}> ()
    root = Constant <value = float {0.70710678}> ()
    density = Constant <value = float {0.39894228}> ()
    positive = Max (variance, tiny)
    spread = Sqrt (positive)
    ratio = Div (mean, spread)
    minus = Neg (far)
    ratio_low = Max (ratio, minus)
    ratio_in = Min (ratio_low, far)
    a = Neg (ratio_in)
    room = Sub (upper, mean)
    over = Div (room, spread)
    over_low = Max (over, minus)
    b = Min (over_low, far)
    a_root = Mul (a, root)
    b_root = Mul (b, root)
    a_erf = Erf (a_root)
    b_erf = Erf (b_root)
    erf_between = Sub (b_erf, a_erf)
    between = Mul (erf_between, half)
    b_half = Mul (b_erf, half)
    above = Sub (half, b_half)
    aa = Mul (a, a)
    bb = Mul (b, b)
    aa_half = Mul (aa, half)
    bb_half = Mul (bb, half)
    aa_minus = Neg (aa_half)
    bb_minus = Neg (bb_half)
    aa_exp = Exp (aa_minus)
    bb_exp = Exp (bb_minus)
    phi_a = Mul (aa_exp, density)
    phi_b = Mul (bb_exp, density)
    edges = Sub (phi_a, phi_b)
    mean_inside = Mul (mean, between)
    spread_edges = Mul (spread, edges)
    mean_open = Add (mean_inside, spread_edges)
    mean_above = Mul (upper, above)
    y_mean = Add (mean_open, mean_above)
    mean_squared = Mul (mean, mean)
    square = Add (mean_squared, variance)
    square_inside = Mul (square, between)
    crossed = Mul (mean, spread_edges)
    crossed_twice = Mul (crossed, two)
    a_phi = Mul (a, phi_a)
    b_phi = Mul (b, phi_b)
    tails = Sub (a_phi, b_phi)
    tails_scaled = Mul (variance, tails)
    square_above = Mul (upper, mean_above)
    sum_1 = Add (square_inside, crossed_twice)
    sum_2 = Add (sum_1, tails_scaled)
    y_square = Add (sum_2, square_above)
    y_mean_squared = Mul (y_mean, y_mean)
    y_difference = Sub (y_square, y_mean_squared)
    y_variance = Max (y_difference, zero)
"""


def parts(tensor: str) -> tuple[str, str]:
    """The tensors that hold its mean and its variance."""
    return f"{tensor}/mean", f"{tensor}/variance"


def moving(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node that have moments; the others are its parameters."""
    several = node.op_type in _OF_SEVERAL
    return [name for name in (node.input if several else node.input[:1]) if name]


class MomentRules:
    """Writes nodes for the moments of what a node computes, from those of what it reads."""

    def __init__(
        self,
        constants: Mapping[str, NDArray[Any]],
        shape: Callable[[str], list[int]],
        where: str,
    ) -> None:
        """Take the initializers, shapes for a batch of one, and the model's name."""
        self.nodes: list[onnx.NodeProto] = []
        self._constants = constants
        self._shape = shape
        self._where = where

    def refused(self, node: onnx.NodeProto, reason: str) -> ModelError:
        """The error for a node that has no moments."""
        return ModelError(
            f"{node.op_type} node '{node.name or node.output[0]}' {reason}",
            where=self._where,
            remedy="give --data, or export the model with its BatchNormalization nodes",
        )

    def write(self, node: onnx.NodeProto) -> None:
        """Add the nodes.

        Raises:
            ModelError: the operator has no rule, or weights that are not constant.
        """
        op, own = node.op_type, node.domain in ("", "ai.onnx")
        if (own and op in _ACTIVATIONS) or node.domain == dialect.DOMAIN:
            self._activation(node)
        elif own and op in _MOVES:
            self._twice(node, node)
        elif own and op in _WEIGHTED:
            self._weighted(node)
        elif own and op in ("Add", "Sub", "Sum"):
            self._sum(node)
        elif own and op in ("Mul", "Div"):
            self._scaled(node)
        elif own and op == "BatchNormalization":
            self._normalised(node)
        elif own and op in _AVERAGES:
            self._averaged(node)
        elif own and op in _MAXIMA:
            self.pooled(node, node.input[0], node.output[0])
        else:
            raise self.refused(node, "has no rule for means and variances")

    def add(self, op: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        """A new node with one output, whose name is returned."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any] | float) -> str:
        """A new constant, a float32 where it is one number; its name is returned."""
        values = np.float32(array) if isinstance(array, float) else array
        self.nodes.append(statistics.constant(name, np.asarray(values)))
        return name

    def _copy(self, node: onnx.NodeProto, part: int) -> onnx.NodeProto:
        """The node reading and writing one part, its other inputs as they are."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        moved = set(moving(node))
        copy.input[:] = [parts(t)[part] if t in moved else t for t in node.input]
        copy.output[:] = [parts(t)[part] if t else t for t in node.output]
        return copy

    def _twice(self, for_mean: onnx.NodeProto, for_variance: onnx.NodeProto) -> None:
        variance = self._copy(for_variance, 1)
        if variance.op_type == "Pad":  # what is padded with does not vary
            if len(variance.input) > 2:
                variance.input[2] = ""
            for attribute in list(variance.attribute):
                if attribute.name == "value":
                    variance.attribute.remove(attribute)
        self.nodes += [self._copy(for_mean, 0), variance]

    def _weighted(self, node: onnx.NodeProto) -> None:
        weight = self._constants.get(node.input[1])
        if weight is None:
            raise self.refused(node, "has weights that are not constant")
        self.nodes.append(self._copy(node, 0))
        variance = self._copy(node, 1)
        squared = f"{node.output[0]}/squared_weight"
        self.constant(squared, weight * weight)
        variance.input[:] = [variance.input[0], squared]
        for attribute in variance.attribute:
            if attribute.name == "alpha":
                attribute.f = attribute.f**2
        self.nodes.append(variance)

    def _sum(self, node: onnx.NodeProto) -> None:
        self.nodes.append(self._copy(node, 0))
        variance = self._copy(node, 1)
        variance.op_type = "Add" if node.op_type == "Sub" else node.op_type
        self.nodes.append(variance)

    def _scaled(self, node: onnx.NodeProto) -> None:
        """A product with, or a quotient by, a constant."""
        varying = [t for t in node.input if t not in self._constants]
        if len(varying) != 1 or (node.op_type == "Div" and varying[0] != node.input[0]):
            raise self.refused(node, "multiplies two tensors that both vary")
        (factor,) = (t for t in node.input if t in self._constants)
        squared = self.constant(f"{node.output[0]}/squared", self._constants[factor] ** 2)
        for part, by in enumerate((factor, squared)):
            inputs = [parts(t)[part] if t in varying else by for t in node.input]
            self.add(node.op_type, inputs, parts(node.output[0])[part])

    def _normalised(self, node: onnx.NodeProto) -> None:
        if any(name not in self._constants for name in node.input[1:5]):
            raise self.refused(node, "has parameters that are not constant")
        gamma, _, _, variance = (self._constants[t].astype(np.float64) for t in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma**2 / (variance + epsilon)
        trailing = len(self._shape(node.output[0])) - 2
        shaped = factor.astype(np.float32).reshape(-1, *[1] * trailing)
        self.nodes.append(self._copy(node, 0))
        squared = self.constant(f"{node.output[0]}/squared_gain", shaped)
        self.add("Mul", [parts(node.input[0])[1], squared], parts(node.output[0])[1])

    def _averaged(self, node: onnx.NodeProto) -> None:
        """The mean of k independent values has the k-th part of their variance."""
        self.nodes.append(self._copy(node, 0))
        average, spread = f"{node.output[0]}/average", parts(node.output[0])[1]
        copy = self._copy(node, 1)
        copy.output[0] = average
        self.nodes.append(copy)
        count = self.constant(f"{average}/count", float(self._window(node)))
        self.add("Div", [average, count], spread)

    def _window(self, node: onnx.NodeProto) -> int:
        """How many values a pool, or a mean, takes together."""
        for attribute in node.attribute:
            if attribute.name == "kernel_shape":
                return math.prod(attribute.ints)
        before = self._shape(node.input[0])
        if node.op_type == "ReduceMean":
            after = self._shape(node.output[0])
            return max(1, math.prod(before) // math.prod(after))
        return math.prod(before[2:])

    def pooled(self, node: onnx.NodeProto, source: str, target: str) -> str:
        """Moments of the largest of every window of `source`, under the name `target`."""
        shift, shrink = normal.largest_of(self._window(node))
        (mean, variance), (to_mean, to_variance) = parts(source), parts(target)
        tops: list[str] = []
        for part in (mean, variance):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.input[0], copy.output[0] = "", part, f"{target}/top/{len(tops)}"
            del copy.output[1:]
            self.nodes.append(copy)
            tops.append(copy.output[0])
        rise = self.constant(f"{target}/rise", shift)
        less = self.constant(f"{target}/less", shrink**2)
        spread = self.add("Sqrt", [tops[1]], f"{target}/spread")
        risen = self.add("Mul", [spread, rise], f"{target}/risen")
        self.add("Add", [tops[0], risen], to_mean)
        self.add("Mul", [tops[1], less], to_variance)
        return target

    def _activation(self, node: onnx.NodeProto) -> None:
        """Relu, Clip from 0, and what the stages made of them: levels change no mean."""
        output = node.output[0]
        upper = f"{output}/upper"
        if node.domain == dialect.DOMAIN:
            upper = node.input[1]
        else:
            low, high = (0.0, math.inf) if node.op_type == "Relu" else self._bounds(node)
            if low != 0.0:
                raise self.refused(node, "has no rule: its lower bound is not 0")
            self.constant(upper, min(high, _NO_BOUND))
        made = helper.make_node(
            "Clipped", [*parts(node.input[0]), upper], [*parts(output)], domain=_DOMAIN
        )
        self.nodes.append(made)

    def _bounds(self, node: onnx.NodeProto) -> tuple[float, float]:
        """The bounds of a Clip; not a number where one is not constant."""
        found = {"min": -math.inf, "max": math.inf}
        found |= {attribute.name: attribute.f for attribute in node.attribute}
        for key, tensor in zip(found, node.input[1:], strict=False):
            if tensor:
                array = self._constants.get(tensor, np.array(math.nan))
                found[key] = float(array.reshape(-1)[0])
        if math.isnan(found["max"]):
            raise self.refused(node, "has a bound that is not constant")
        return found["min"], found["max"]

    def functions(self, opset: int) -> list[onnx.FunctionProto]:
        """The local functions that the nodes call."""
        return [
            onnx.parser.parse_function(
                f'<domain: "{_DOMAIN}", opset_import: ["" : {opset}]>\n'
                f"Clipped (mean, variance, upper) => (y_mean, y_variance)\n{{{_CLIPPED}}}"
            )
        ]
