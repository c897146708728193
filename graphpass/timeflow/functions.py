"""Scalar functions that neurons stand behind: part of the neuron, so time does not stop there."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.regions import Region, find_regions, region_up_to


@dataclass(frozen=True)
class NeuronFunctions:
    """The functions of a graph's neurons.

    Attributes:
        ending: by the id of a neuron's node, the function that the node ends (stage 0) or
            reads (later).
        inside: by id, nodes of such functions that nothing else reads.
    """

    ending: dict[int, Region] = field(default_factory=dict)
    inside: dict[int, Region] = field(default_factory=dict)


def functions_of_neurons(model: Model, neurons: Set[int]) -> NeuronFunctions:
    """Find them.

    Args:
        model: any stage up to 3.
        neurons: ids of the nodes that are neurons, or become some.
    """
    found, regions = NeuronFunctions(), find_regions(model)
    record = model.record.neurons if model.record else ()
    behind = {neuron.name for neuron in record if neuron.baseline is not None}
    for node in model.graph.nodes:
        if id(node) not in neurons:
            continue
        name = node.outputs[0].name
        region: Region | None = None
        if editing.is_dialect(node, dialect.CLIP_ABOVE) or name in behind:
            region = region_up_to(regions, node.inputs[0])
        elif not editing.is_dialect(node, *dialect.NEURONS):
            region = regions.get(name)
        if region is not None:
            found.ending[id(node)] = region
            inner = {id(n) for n in region.nodes} | {id(node)}
            for n in region.nodes:
                if n is not node and all(id(r) in inner for t in n.outputs for r in t.outputs):
                    found.inside[id(n)] = region
    return found
