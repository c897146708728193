"""How much work a spike sets off: the multiply-accumulates of the layers that read it."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress

import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass_runtime.errors import ModelError


def synaptic_work(model: Model, names: Collection[str]) -> dict[str, int]:
    """MACs per sample of the linear layers that read each of these activations.

    Pools, sums, concatenations and layout are followed on to what reads them, until the
    next activation of `names` or the next layer: a layer that reads a sum of two activations
    works for both.

    Args:
        model: a graph with shapes, of any stage before spikes.
        names: tensors that activations write.

    Raises:
        ModelError: the shape of a layer is not known.
    """
    tensors = model.graph.tensors()
    return {name: sum(_readers(model, tensors[name], names).values()) for name in names}


def known_work(model: Model, names: Collection[str]) -> dict[str, int]:
    """The same, without the activations of which it is not known."""
    tensors, work = model.graph.tensors(), {}
    for name in names:
        with suppress(ModelError):
            work[name] = sum(_readers(model, tensors[name], names).values())
    return work


def _readers(model: Model, start: gs.Tensor, names: Collection[str]) -> dict[int, int]:
    """MACs of each layer that reads a tensor, by id of its node."""
    found: dict[int, int] = {}
    waiting, seen = list(start.outputs), set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if editing.is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
            found[id(node)] = _macs(model, node)
        elif not any(output.name in names for output in node.outputs):
            waiting += [reader for output in node.outputs for reader in output.outputs]
    return found


def _macs(model: Model, node: gs.Node) -> int:
    weight = editing.values(node.inputs[1])
    # Every input of a ConvTranspose, every output of the others, meets the same weights.
    side = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    sizes = list(side.shape or [None, None])[1:]
    if weight is None or not all(isinstance(size, int) for size in sizes):
        raise ModelError(
            f"{editing.describe(node)} has no known number of operations",
            where=model.name,
            remedy="give one --steps T for all layers",
        )
    if node.op in ("Conv", "ConvTranspose"):
        per_element = math.prod(weight.shape[1:])
    else:
        per_element = weight.shape[1 if node.attrs.get("transB", 0) else -2]
    return int(math.prod(sizes) * per_element)
