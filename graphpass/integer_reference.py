"""What the integers of an `int8` file say, computed without integer kernels.

ONNX Runtime joins the file's operators to kernels of its own when it loads it, so that
running the file again, optimised or not, is no independent judge: unoptimised, it adds up
float32 products, which are not exact. Here the layers are rewritten instead:

- integers are convolved as whole numbers in float32, where every sum below 2^24 is exact in
  any order; weights are cut into digits where a sum could be larger. MatMul and Gemm are
  added up in float64,
- bias and scales are applied to the whole sum in float64, as the file states them.

What is rounded to integers is not computed but read from the run that is judged. So each
rounding is judged on its own, on the very integers that it was made from, and an error has
no downstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model, to_bytes
from graphpass_runtime.errors import ModelError
from graphpass_runtime.execution import execute
from graphpass_runtime.loading import ModelSource

# ONNX Runtime scales sums in float32: a few roundings of numbers up to some hundred levels.
NEAR_LEVEL = 2.0**-12
_EXACT = 2**24  # float32 holds every whole number up to here
_UINT8 = np.dtype(np.uint8)
_FLOAT32, _FLOAT64 = 1, 11  # of onnx.TensorProto
_DIGITS = ((256, 1), (16, 2), (4, 4))  # bases, and how many digits make 8 bits


@dataclass(frozen=True)
class Rounding:
    """A place where a real tensor is rounded to integers.

    Attributes:
        held: the integer tensor.
        real: the tensor that it rounds.
        scale: step between levels.
        zero: the level of 0.
        kind: the integer type: uint8, or what the ANN rounds to where nothing spikes.
    """

    held: str
    real: str
    scale: float
    zero: int
    kind: np.dtype[Any] = _UINT8

    def judge(self, real: NDArray[Any], held: NDArray[Any]) -> tuple[int, int]:
        """How many levels differ at a near tie, and how many without one.

        Args:
            real: exact values, float32.
            held: the levels found, the same shape.
        """
        ends = np.iinfo(self.kind)
        level = np.clip(real.astype(np.float64) / self.scale + self.zero, ends.min, ends.max)
        differs = np.rint(level) != held
        near = np.abs(level[differs] - held[differs]) <= 0.5 + NEAR_LEVEL
        return int(near.sum()), int((~near).sum())


class IntegerReference:
    """The roundings of an `int8` file, and the real numbers that they round.

    Args:
        model: the file; it is changed.
        threads: for the session, which runs on the CPU.

    Attributes:
        roundings: all of them, in the order of the file.
        layers: how many layers have integer weights.

    Raises:
        ModelError: its quantisation is not of the kind that graphpass writes.
    """

    def __init__(self, model: Model, threads: int | None = None) -> None:
        self._where = model.name
        self.roundings = roundings_of(model)
        self._outputs = [output.name for output in model.graph.outputs]
        self.layers = sum(_make_exact(model, node) for node in list(model.graph.nodes))
        reals = _read_levels(model, self.roundings)
        self._reals = {r.held: name for r, name in zip(self.roundings, reals, strict=True)}
        editing.tidy(model)
        # Not a `Session`, which wants to know the ranks of its inputs.
        self._session = ModelSource(to_bytes(model), "cpu", None, threads).create()[0]

    def run(
        self, feeds: Mapping[str, NDArray[Any]], held: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[np.float32]], list[NDArray[Any]]]:
        """What each rounding has to round, and the model's outputs.

        Args:
            feeds: the model's inputs.
            held: the levels that the judged run found, by `Rounding.held`.
        """
        levels = {rounding.held: held[rounding.held] for rounding in self.roundings}
        names = [*self._reals.values(), *self._outputs]
        found = execute(
            lambda options: self._session.run(names, {**feeds, **levels}, options),
            where=self._where,
        )
        count = len(self._reals)
        return dict(zip(self._reals, found[:count], strict=True)), found[count:]


def roundings_of(model: Model) -> list[Rounding]:
    """Every QuantizeLinear of a file.

    Raises:
        ModelError: one has not a single constant scale and zero point.
    """
    found = []
    for node in model.graph.nodes:
        if not editing.is_standard(node, "QuantizeLinear"):
            continue
        scale = editing.scalar(node.inputs[1])
        zero = editing.values(editing.present(node.inputs, 2))
        known = zero is not None and zero.dtype.kind in "iu" and zero.size == 1
        if scale is None or not scale > 0 or not known:
            raise ModelError(
                f"{editing.describe(node)} does not round to integers by one scale",
                where=model.name,
                remedy="compare accuracies: graphpass evaluate SNN --reference OTHER",
            )
        assert zero is not None, "it is known"
        names, level = (node.outputs[0].name, node.inputs[0].name), int(zero.ravel()[0])
        found.append(Rounding(*names, scale, level, zero.dtype))
    return found


def _read_levels(model: Model, roundings: list[Rounding]) -> list[str]:
    """Make the levels inputs, and what they round outputs, under names of their own."""
    tensors, reals = model.graph.tensors(), []
    for rounding in roundings:
        real, held = tensors[rounding.real], tensors[rounding.held]
        editing.detach(held.inputs[0])
        held.dtype, held.shape = rounding.kind, None
        model.graph.inputs.append(held)
        name = editing.fresh_name(model, f"{rounding.held}/exact")
        shown = gs.Variable(name, np.dtype(np.float32))
        model.graph.nodes.append(gs.Node("Identity", inputs=[real], outputs=[shown]))
        model.graph.outputs.append(shown)
        reals.append(name)
    return reals


@dataclass(frozen=True)
class _Operand:
    """A DequantizeLinear: integers, the step between them, and the integer of 0."""

    tensor: gs.Tensor
    scale: NDArray[np.float64]
    zero: int
    kind: np.dtype[Any]

    @classmethod
    def read_by(cls, node: gs.Node, index: int) -> _Operand | None:
        source = editing.present(node.inputs, index)
        maker = source.inputs[0] if source is not None and len(source.inputs) == 1 else None
        if maker is None or not editing.is_standard(maker, "DequantizeLinear"):
            return None
        scale = editing.values(maker.inputs[1])
        zero = editing.values(editing.present(maker.inputs, 2))
        if scale is None or zero is None or zero.dtype.kind not in "iu" or np.ptp(zero):
            return None
        return cls(maker.inputs[0], scale.astype(np.float64), int(zero.ravel()[0]), zero.dtype)

    @property
    def largest(self) -> int:
        """The largest distance from 0, in steps."""
        ends = np.iinfo(self.kind)
        return max(self.zero - int(ends.min), int(ends.max) - self.zero)


def _make_exact(model: Model, layer: gs.Node) -> bool:
    """Let a layer of integers add up whole numbers; False for any other node."""
    if not editing.is_standard(layer, "Conv", "Gemm", "MatMul"):
        return False
    data, weight = _Operand.read_by(layer, 0), _Operand.read_by(layer, 1)
    kernel = None if weight is None else editing.values(weight.tensor)
    if data is None or weight is None or kernel is None or data.scale.size != 1:
        return False
    work = _Rewriting(model, layer.outputs[0].name)
    whole = work.cast(data.tensor, _FLOAT32)
    if data.zero:
        whole = work.apply("Sub", whole, np.float32(data.zero))
    integers = kernel.astype(np.float64) - weight.zero
    across = [-1, *[1] * (kernel.ndim - 2)] if layer.op == "Conv" else [-1]
    sums = _summed(model, work, layer, whole, integers, data.largest)
    real = work.apply("Mul", sums, data.scale * weight.scale.reshape(across))
    if (bias := _Operand.read_by(layer, 2)) is not None:
        summand = np.asarray(editing.values(bias.tensor), np.float64) * bias.scale
        real = work.apply("Add", real, summand.reshape(across))
    elif (floats := editing.values(editing.present(layer.inputs, 2))) is not None:
        # ONNX Runtime rounds it to steps of the products.
        real = work.apply("Add", real, floats.astype(np.float64).reshape(across))
    output = layer.outputs[0]
    editing.detach(layer)
    work.cast(real, _FLOAT32, output)
    return True


def _summed(
    model: Model,
    work: _Rewriting,
    layer: gs.Node,
    whole: gs.Tensor,
    integers: NDArray[np.float64],
    largest: int,
) -> gs.Tensor:
    """The layer's sums in float64, without bias."""
    if layer.op != "Conv":
        return work.apply(layer.op, work.cast(whole, _FLOAT64), integers, **dict(layer.attrs))
    parts = []
    for place, digit in _digits(model, layer, integers, largest):
        part = work.apply("Conv", whole, digit.astype(np.float32), **dict(layer.attrs))
        # A cast in between, or ONNX Runtime would multiply the scale into the kernel.
        part = work.cast(part, _FLOAT64)
        parts.append(part if place == 1 else work.apply("Mul", part, np.float64(place)))
    total = parts[0]
    for part in parts[1:]:
        total = work.join(total, part)
    return total


def _digits(
    model: Model, layer: gs.Node, integers: NDArray[np.float64], largest: int
) -> list[tuple[int, NDArray[np.float64]]]:
    """(place, digits) whose sums with data up to `largest` float32 holds, for a kernel."""
    for base, count in _DIGITS:
        rest, found = integers, []
        for index in range(count):
            # The last digit takes what is left; the others lie around 0.
            higher = np.rint(rest / base) if index < count - 1 else np.zeros_like(rest)
            found.append((base**index, rest - higher * base))
            rest = higher
        sums = [np.abs(digit).reshape(len(digit), -1).sum(axis=1).max() for _, digit in found]
        if max(sums, default=0) * largest < _EXACT:
            return found
    raise ModelError(
        f"{editing.describe(layer)} adds up too many products to check them exactly",
        where=model.name,
        remedy="compare accuracies: graphpass evaluate SNN --reference OTHER",
    )


class _Rewriting:
    """Nodes that replace one layer."""

    def __init__(self, model: Model, name: str) -> None:
        self._model = model
        self._name = f"{name}/exact"

    def apply(
        self, op: str, left: gs.Tensor, right: NDArray[Any] | np.number[Any], **attrs: Any
    ) -> gs.Variable:
        """op(left, constant)."""
        constant = editing.constant(self._model, f"{self._name}/{op}", np.asarray(right))
        return self._append(op, [left, constant], attrs)

    def join(self, left: gs.Tensor, right: gs.Tensor) -> gs.Variable:
        """The sum of two tensors."""
        return self._append("Add", [left, right], {})

    def cast(self, tensor: gs.Tensor, to: int, output: gs.Variable | None = None) -> gs.Variable:
        """A tensor in another type."""
        return self._append("Cast", [tensor], {"to": to}, output)

    def _append(
        self,
        op: str,
        inputs: list[gs.Tensor],
        attrs: dict[str, Any],
        output: gs.Variable | None = None,
    ) -> gs.Variable:
        if output is None:
            output = gs.Variable(editing.fresh_name(self._model, f"{self._name}/{op}/output"))
        self._model.graph.nodes.append(gs.Node(op, attrs=attrs, inputs=inputs, outputs=[output]))
        return output
