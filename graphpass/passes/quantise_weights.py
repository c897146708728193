"""Stage 4, form `int8`: counts travel as uint8, weights are int8.

Written with QuantizeLinear and DequantizeLinear around ordinary operators, so that every
runtime can run the file, and ONNX Runtime joins them to integer kernels when it loads it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing, grids, weights
from graphpass.grids import Grid, Grids
from graphpass.model import Model
from graphpass.neurons import Ties
from graphpass.passes.base import Pass
from graphpass.weights import Vector
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord

OLDEST_OPSET = 13  # per-channel DequantizeLinear
MOST_STEPS = grids.TOP

# QuantizeLinear rounds half to even. Two float32 steps less than 1 lift every exact tie up.
_HALF_UP = np.float32(1.0 - 2.0**-22)
_SMALLEST_SCALE = 2.0**-60
# Of what is summed up for an average to what is written; ONNX Runtime refuses 2^-32 and 2^8.
_LEAST_RATIO, _MOST_RATIO = 2.0**-31, 2.0**7
_LARGEST_BIAS = 2.0**30


class QuantiseWeights(Pass):
    """A network of `NearestCount` neurons becomes one of integers.

    - NearestCount(z) becomes QuantizeLinear(z, 1), which rounds and keeps z above 0, and a
      Clip at T on uint8. ONNX Runtime rounds inside the convolution before it.
    - Conv, Gemm and MatMul that read integers get int8 weights with a scale for each output
      channel, and an int32 bias.
    - A current that is read by something else than a neuron is rounded to 256 levels of
      its span (`graphpass.grids`): the operands of residual sums, once each, and what
      layers without an activation hand on. The sum itself is rounded to counts.
    """

    def apply(self, model: Model) -> int:
        """In topological order: every node finds its inputs quantised."""
        assert model.record is not None, "neurons live in the record"
        plan = grids.find_grids(model)
        if unknown := plan.unknown:
            raise ModelError(
                f"the range of {len(unknown)} currents is not known, first '{unknown[0]}'",
                where=model.name,
                remedy="give --data, or use --form counts",
            )
        work = _Quantiser(model, plan, model.record)
        nodes = list(model.graph.nodes)
        neurons = sum(editing.is_dialect(node, dialect.NEAREST_COUNT) for node in nodes)
        for node in nodes:
            work.visit(node)
        return len(plan.integer) + neurons


class _Quantiser:
    """One walk over the graph."""

    def __init__(self, model: Model, plan: Grids, record: FileRecord) -> None:
        self._model = model
        self._plan = plan
        self._ties = {neuron.spikes: neuron.ties for neuron in record.neurons}
        self._means = {name: np.array(mean) for name, mean in record.means.items()}
        self._stored: dict[int, tuple[gs.Tensor, Grid]] = {}

    def visit(self, node: gs.Node) -> None:
        """Let a node read integers, and hold its outputs as such."""
        integer = id(node) in self._plan.integer
        moves = integer and editing.is_standard(node, *grids.LAYOUT)
        if editing.is_dialect(node, dialect.NEAREST_COUNT):
            return self._round(node)
        if moves:
            return self._move(node)
        for index, tensor in enumerate(list(node.inputs)):
            if integer and id(tensor) in self._plan.held:
                self._hold(tensor)
            if id(tensor) in self._stored:
                if integer and index == 0 and grids.is_integer_layer(node):
                    mean = self._means.get(tensor.name)
                    _quantise_layer(self._model, node, self._stored[id(tensor)][1], mean)
                apart = self._computes_in_float(node, self._stored[id(tensor)][1])
                node.inputs[index] = self._cast(tensor) if apart else self._read(tensor)
        for output in node.outputs:
            if id(output) in self._plan.held:
                self._hold(output)
        return None

    def _hold(self, tensor: gs.Tensor) -> None:
        """A uint8 copy of a current, made once."""
        if id(tensor) not in self._stored:
            grid = self._plan.grid(tensor)
            name = editing.fresh_name(self._model, f"{tensor.name}/uint8")
            held = gs.Variable(name, np.dtype(np.uint8), tensor.shape)
            self._append("QuantizeLinear", [tensor, *self._scale(name, grid)], held)
            self._stored[id(tensor)] = held, grid

    def _read(self, tensor: gs.Tensor) -> gs.Variable:
        """A float tensor of its own for every reader: ONNX Runtime looks for such pairs."""
        held, grid = self._stored[id(tensor)]
        name = editing.fresh_name(self._model, f"{held.name}/read")
        value = gs.Variable(name, np.dtype(np.float32), tensor.shape)
        self._append("DequantizeLinear", [held, *self._scale(held.name, grid)], value)
        return value

    def _computes_in_float(self, node: gs.Node, grid: Grid) -> bool:
        """Must ONNX Runtime not see that a node stands between integers?

        It would round the weights of a layer by one scale, whatever their channels, and take
        a kernel for averages that refuses scales too far apart.
        """
        if id(node) not in self._plan.integer:
            return editing.is_standard(node, *weights.LAYERS)
        if not editing.is_standard(node, "GlobalAveragePool"):
            return False
        source, output = node.inputs[0], node.outputs[0]
        written = self._plan.grid(output) if id(output) in self._plan.held else Grid()
        sizes = [size for size in (source.shape or ())[2:] if isinstance(size, int)]
        ratio = grid.scale / (written.scale * math.prod(sizes))
        return not _LEAST_RATIO <= ratio <= _MOST_RATIO

    def _cast(self, tensor: gs.Tensor) -> gs.Tensor:
        """The same as `_read`, in other operators."""
        held, grid = self._stored[id(tensor)]
        name = editing.fresh_name(self._model, f"{held.name}/cast")
        parts = [("Sub", grid.zero), ("Mul", grid.scale)]
        steps = [(op, by) for op, by in parts if by != (1.0 if op == "Mul" else 0)]
        value = gs.Variable(name, np.dtype(np.float32), tensor.shape)
        cast = gs.Node("Cast", name, {"to": 1}, inputs=[held], outputs=[value])
        self._model.graph.nodes.append(cast)
        for op, by in steps:
            constant = self._constant(f"{name}/{op}", np.float32(by))
            result = gs.Variable(f"{name}/{op}/output", np.dtype(np.float32), tensor.shape)
            self._append(op, [value, constant], result)
            value = result
        return value

    def _round(self, node: gs.Node) -> None:
        """The neuron: round, keep above 0, cut at T."""
        current, spikes = node.inputs[0], node.outputs[0]
        levels = editing.scalar(node.inputs[1])
        assert levels is not None, "a neuron's T is a constant"
        if id(current) in self._stored:
            current = self._read(current)
        name = spikes.name
        rounded = gs.Variable(f"{name}/unbounded", np.dtype(np.uint8), spikes.shape)
        step = _HALF_UP if self._ties[name] is Ties.HALF_UP else np.float32(1)
        scale = [
            self._constant(f"{name}/step", step),
            self._constant(f"{name}/silent", np.uint8(0)),
        ]
        self._append("QuantizeLinear", [current, *scale], rounded)
        bounds = [
            self._constant(f"{name}/least", np.uint8(0)),
            self._constant(f"{name}/most", np.uint8(levels)),
        ]
        editing.detach(node)
        spikes.dtype = np.dtype(np.uint8)
        self._append("Clip", [rounded, *bounds], spikes)
        self._stored[id(spikes)] = spikes, Grid(top=int(levels))

    def _move(self, node: gs.Node) -> None:
        """Operators that do the same on uint8."""
        data = node.inputs if node.op == "Concat" else node.inputs[:1]
        grid = self._stored_grid(data)
        for index, tensor in enumerate(data):
            node.inputs[index] = self._stored[id(tensor)][0]
        if editing.is_standard(node, "Pad"):
            padding = self._constant(f"{node.outputs[0].name}/padding", np.uint8(grid.zero))
            node.inputs = [*node.inputs[:2], padding, *node.inputs[3:]]
        for index, output in enumerate(node.outputs):
            name = editing.fresh_name(self._model, f"{output.name}/uint8")
            held = gs.Variable(name, np.dtype(np.uint8), output.shape)
            node.outputs[index] = held
            self._stored[id(output)] = held, grid
            if editing.is_output(self._model, output):
                self._append("DequantizeLinear", [held, *self._scale(name, grid)], output)

    def _stored_grid(self, data: list[gs.Tensor]) -> Grid:
        for tensor in data:
            self._hold(tensor)
        return max((self._stored[id(tensor)][1] for tensor in data), key=lambda grid: grid.top or 0)

    def _scale(self, name: str, grid: Grid) -> list[gs.Constant]:
        return [
            self._constant(f"{name}/scale", np.float32(grid.scale)),
            self._constant(f"{name}/zero", np.uint8(grid.zero)),
        ]

    def _constant(self, name: str, value: Any) -> gs.Constant:
        return editing.constant(self._model, name, np.asarray(value))

    def _append(self, op: str, inputs: list[gs.Tensor], output: gs.Tensor) -> None:
        name = f"{output.name}/{op}"
        self._model.graph.nodes.append(gs.Node(op, name, inputs=inputs, outputs=[output]))


def _quantise_layer(model: Model, layer: gs.Node, grid: Grid, mean: Vector | None) -> None:
    """Weights int8, one scale for each output channel; bias int32.

    Args:
        model: the model.
        layer: Conv, Gemm or MatMul.
        grid: of what it reads.
        mean: of what it reads, per channel; None when it is not known.
    """
    weight = np.asarray(editing.values(layer.inputs[1]), np.float64)
    axis = 0 if layer.op == "Conv" or layer.attrs.get("transB", 0) else 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    channels = weight.shape[axis]
    given = editing.present(layer.inputs, 2)
    bias = np.zeros(channels)
    if given is not None:
        known = np.asarray(editing.values(given), np.float64).ravel()
        bias = np.broadcast_to(known * layer.attrs.get("beta", 1.0), channels)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ModelError(
            f"{editing.describe(layer)} has weights that are not finite",
            where=model.name,
            remedy="mend the model, or use --form counts",
        )
    limit = grids.weight_limit(grid.top)
    scale = np.abs(weight).max(axis=others, initial=0.0) / limit
    # A channel without weights still has a bias, which must fit into 32 bits.
    least = np.abs(bias) / (grid.scale * _LARGEST_BIAS)
    scale = np.maximum(np.maximum(scale, least), _SMALLEST_SCALE).astype(np.float32)
    along = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]).astype(np.float64)
    integers = np.clip(np.rint(weight / along), -limit, limit).astype(np.int8)
    shares = None if mean is None else weights.along_inputs(layer, weight, mean)
    if shares is not None:
        bias = bias - ((integers * along - weight) * shares).sum(axis=others)
    name = layer.outputs[0].name
    layer.inputs[1] = _dequantised(model, f"{name}/int8_weight", integers, scale, axis)
    if layer.op != "MatMul":
        step = (scale * np.float32(grid.scale)).astype(np.float32)
        whole = np.rint(bias / step.astype(np.float64))
        small = np.clip(whole, -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32)
        layer.inputs = [
            *layer.inputs[:2],
            _dequantised(model, f"{name}/int32_bias", small, step, 0),
        ]
    if layer.op == "Gemm":
        layer.attrs["beta"] = 1.0


def _dequantised(
    model: Model, name: str, integers: NDArray[Any], scale: NDArray[np.float32], axis: int
) -> gs.Variable:
    name = editing.fresh_name(model, name)
    zero = np.zeros(scale.shape, integers.dtype)
    value = gs.Variable(f"{name}/read", np.dtype(np.float32), integers.shape)
    node = gs.Node(
        "DequantizeLinear",
        name,
        {"axis": axis},
        inputs=[
            gs.Constant(name, integers),
            editing.constant(model, f"{name}/scale", scale),
            editing.constant(model, f"{name}/zero", zero),
        ],
        outputs=[value],
    )
    model.graph.nodes.append(node)
    return value
