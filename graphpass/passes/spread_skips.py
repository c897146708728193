"""Stage 2: what skips layers gets neurons of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_graphsurgeon as gs

from graphpass import dialect, editing, populations
from graphpass.model import Model
from graphpass.neurons import Neuron
from graphpass.passes.base import Pass

# They pass on what they read, if all else that they read is constant.
_SUMS = ("Add", "Sub", "Sum")
_CARRIERS = (
    *_SUMS,
    *"AveragePool BatchNormalization Concat Div Flatten Identity Mul Pad Reshape Slice".split(),
    *"Squeeze Transpose Unsqueeze".split(),
)


class SpreadSkips(Pass):
    """An activation that layers and residual sums read is written twice, for each of them.

    The second one becomes a population of neurons, see `populations`.
    """

    def __init__(self, wanted: Collection[str], spiking: Collection[str]) -> None:
        """Take the names that the second ones are to have, and what becomes neurons.

        Other names among those wanted do no harm.
        """
        self._wanted = frozenset(wanted)
        self._spiking = frozenset(spiking)

    def apply(self, model: Model) -> int:
        """Where layers alone, or sums alone, read an activation, it stays as it is."""
        count = 0
        # All are found before the first is written twice: that is a reader more of its current.
        for node, readers in _skipping(model, self._spiking):
            if populations.skip_name(node.outputs[0].name) in self._wanted:
                _write_twice(model, node, readers)
                count += 1
        return count


def find_skipping(model: Model, spiking: Collection[str]) -> list[str]:
    """The activations that skip layers, of those that become neurons, by name.

    Not those behind scalar functions: what layers read there is a sum that a neuron is part
    of.
    """
    return [node.outputs[0].name for node, _ in _skipping(model, spiking)]


def spread_for(model: Model, neurons: Iterable[Neuron]) -> None:
    """Give an ANN the nodes that populations of a later stage stand for.

    Args:
        model: stage 0 or 1.
        neurons: of a later stage of the same conversion, populations as one.
    """
    known = list(neurons)
    wanted = [neuron.name for neuron in known if neuron.members > 1]
    SpreadSkips(wanted, [neuron.name for neuron in known])(model)


def _skipping(model: Model, spiking: Collection[str]) -> list[tuple[gs.Node, list[gs.Node]]]:
    """These activations, each with those of its readers that lead past layers."""
    taken, found = model.graph.tensors(), []
    for node in model.graph.nodes:
        name = node.outputs[0].name if node.outputs else ""
        if name not in spiking or populations.skip_name(name) in taken:
            continue
        if editing.is_dialect(node, dialect.CLIP_ABOVE):
            continue
        if readers := _skips(model, node.outputs[0], spiking):
            found.append((node, readers))
    return found


def _skips(model: Model, tensor: gs.Tensor, spiking: Collection[str]) -> list[gs.Node]:
    """The readers behind which there is a sum, and after it nothing but neurons."""
    if editing.is_output(model, tensor):
        return []
    readers = list({id(node): node for node in tensor.outputs}.values())
    skips = [node for node in readers if _reaches_neurons_alone(model, node, spiking)]
    return skips if len(skips) < len(readers) else []


def _reaches_neurons_alone(model: Model, start: gs.Node, spiking: Collection[str]) -> bool:
    waiting, seen = [(start, False)], set()
    while waiting:
        node, summed = waiting.pop()
        if (id(node), summed) in seen:
            continue
        seen.add((id(node), summed))
        if summed and node.outputs[0].name in spiking:
            continue
        varying = sum(not (t.is_empty() or isinstance(t, gs.Constant)) for t in node.inputs)
        if varying > 1 and editing.is_standard(node, *_SUMS):
            summed = True
        elif varying > 1 or not editing.is_standard(node, *_CARRIERS):
            return False
        readers = [reader for output in node.outputs for reader in output.outputs]
        if not readers or any(editing.is_output(model, output) for output in node.outputs):
            return False
        waiting += [(reader, summed) for reader in readers]
    return True


def _write_twice(model: Model, node: gs.Node, readers: Iterable[gs.Node]) -> None:
    output = node.outputs[0]
    skipping = gs.Variable(populations.skip_name(output.name), output.dtype, output.shape)
    twin = gs.Node(
        *(node.op, skipping.name, dict(node.attrs), list(node.inputs), [skipping]),
        domain=node.domain,
    )
    model.graph.nodes.append(twin)
    for reader in readers:
        editing.replace_input(reader, output, skipping)
