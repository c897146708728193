"""Stage 4, form `counts`: amplitudes go into the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing, weights
from graphpass.charging import positive
from graphpass.model import Model
from graphpass.neurons import parameters
from graphpass.passes.base import Pass
from graphpass.weights import Vector

_POOLS = ("MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool")


@dataclass(frozen=True)
class _Product:
    """counts * amplitude, the amplitude along one axis."""

    node: gs.Node
    factor: Vector
    axis: int | None

    @property
    def counts(self) -> gs.Tensor:
        return self.node.inputs[0]


class FoldAmplitude(Pass):
    """W (amplitude * n) becomes (W amplitude) n, and the product goes away.

    On its way to a layer it passes pools, Flatten and Concat. Readers that cannot take
    it (residual sums, outputs) keep the product.
    """

    def apply(self, model: Model) -> int:
        """From the neurons downwards; a product that moved is looked at again."""
        assert model.record is not None, "neurons live in the record"
        neurons = {neuron.spikes: neuron for neuron in model.record.neurons}
        waiting = []
        for node in model.graph.nodes:
            neuron = neurons.get(node.inputs[0].name) if node.inputs else None
            if neuron is not None and editing.is_standard(node, "Mul"):
                factor = np.asarray(editing.values(node.inputs[1]), np.float64).ravel()
                waiting.append(_Product(node, factor, neuron.channel_axis))
        count = 0
        while waiting:
            product = waiting.pop(0)
            for reader in list(product.node.outputs[0].outputs):
                moved = _move(model, product, reader, waiting)
                count += moved is not None
                waiting += moved or []
        return count


def _move(
    model: Model, product: _Product, reader: gs.Node, others: list[_Product]
) -> list[_Product] | None:
    """Let `reader` read the counts; the products that come after it, None when it cannot."""
    output = product.node.outputs[0]
    if reader.inputs[0] is not output and not editing.is_standard(reader, "Concat"):
        return None
    if sum(tensor is output for tensor in reader.inputs) != 1:
        return None
    if editing.is_standard(reader, *weights.LAYERS):
        return [] if _try_layer(model, product, reader) else None
    if reader.outputs[0].shape is None:
        return None
    if editing.is_standard(reader, "Concat"):
        return _through_concat(model, reader, [product, *others])
    return _through(model, product, reader)


def _try_layer(model: Model, product: _Product, reader: gs.Node) -> bool:
    rank = len(product.counts.shape or ())
    axis = rank - 1 if reader.op in ("Gemm", "MatMul") else 1
    if product.axis not in (axis, None) or reader.attrs.get("transA", 0):
        return False
    if not weights.scale_inputs(model, reader, product.factor):
        return False
    reader.inputs[0] = product.counts
    return True


def _through(model: Model, product: _Product, reader: gs.Node) -> list[_Product] | None:
    """Operators that treat channels alike and commute with a positive factor."""
    factor, axis = product.factor, product.axis
    if editing.is_standard(reader, *_POOLS) and axis not in (1, None):
        return None  # it pools along the channels
    if editing.is_standard(reader, "MaxPool", "GlobalMaxPool"):
        if not positive(factor) or len(reader.outputs) != 1:
            return None
    elif editing.is_standard(reader, "Flatten"):
        shape = product.counts.shape or []
        if reader.attrs.get("axis", 1) != 1 or axis not in (1, None):
            return None
        if not all(isinstance(size, int) for size in shape[1:]):
            return None
        factor = np.repeat(factor, int(np.prod(shape[2:])) if axis == 1 else 1)
    elif editing.is_standard(reader, "Slice", "Pad"):
        if (padded := _cut_or_padded(product, reader)) is None:
            return None
        factor = padded
    elif editing.is_standard(reader, "Mul"):
        return _joined(model, product, reader)
    elif not editing.is_standard(reader, "AveragePool", "GlobalAveragePool"):
        return None
    reader.inputs[0] = product.counts
    return [_behind(model, reader, factor, axis)]


def _cut_or_padded(product: _Product, reader: gs.Node) -> Vector | None:
    """The factors behind a Slice along other axes, or behind padding with zeros."""
    axis, rank = product.axis, len(product.counts.shape or ())
    known = [editing.values(tensor) for tensor in reader.inputs[1:] if not tensor.is_empty()]
    if axis is None or not known or any(array is None for array in known):
        return None
    if reader.op == "Slice":
        axes = editing.values(editing.present(reader.inputs, 3))
        along = range(rank) if axes is None else [int(a) % rank for a in axes]
        return None if axis in along else product.factor
    value = editing.scalar(editing.present(reader.inputs, 2)) or 0.0
    pads = np.asarray(known[0])
    if reader.attrs.get("mode", "constant") != "constant" or value or len(pads) != 2 * rank:
        return None
    around = (int(pads[axis]), int(pads[axis + rank]))
    if min(around) < 0 or editing.present(reader.inputs, 3) is not None:
        return None
    return np.pad(product.factor, around, constant_values=1.0)


def _joined(model: Model, product: _Product, reader: gs.Node) -> list[_Product] | None:
    """Two products in a row are one."""
    known = editing.values(reader.inputs[1])
    shape = np.shape(product.node.inputs[1].values)
    if known is None or (known.size > 1 and known.shape != shape):
        return None
    both = np.asarray(known, np.float64) * product.factor.reshape(shape)
    name = f"{reader.outputs[0].name}/factor"
    reader.inputs = [product.counts, editing.constant(model, name, both.astype(known.dtype))]
    return [_Product(reader, both.ravel(), product.axis)]


def _through_concat(
    model: Model, reader: gs.Node, products: list[_Product]
) -> list[_Product] | None:
    """All that is joined must be counts times amplitudes."""
    by_output = {id(p.node.outputs[0]): p for p in products}
    joined = [by_output.get(id(tensor)) for tensor in reader.inputs]
    found = [p for p in joined if p is not None]
    axis = reader.attrs.get("axis")
    if len(found) != len(joined) or any(p.axis != axis for p in found):
        return None
    sizes = [p.counts.shape[axis] if p.counts.shape else None for p in found]
    if any(p.factor.size != size for p, size in zip(found, sizes, strict=True)):
        return None
    for index, part in enumerate(found):
        reader.inputs[index] = part.counts
    return [_behind(model, reader, np.concatenate([p.factor for p in found]), axis)]


def _behind(model: Model, reader: gs.Node, factor: Vector, axis: int | None) -> _Product:
    """Put the product behind a node that now gives counts."""
    output = reader.outputs[0]
    raw = gs.Variable(
        editing.fresh_name(model, f"{output.name}/spikes"), output.dtype, output.shape
    )
    reader.outputs[0] = raw
    name = editing.fresh_name(model, f"{output.name}/per_spike")
    shaped = parameters.beside(factor.astype(np.float32), len(output.shape), axis)
    node = gs.Node(
        "Mul", f"{output.name}/amplify", inputs=[raw, gs.Constant(name, shaped)], outputs=[output]
    )
    model.graph.nodes.append(node)
    return _Product(node, factor, axis)
