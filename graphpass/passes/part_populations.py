"""Stage 4, forms with spikes: the neurons of a population stand apart."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing, populations
from graphpass.model import Model
from graphpass.neurons import Neuron, daqcfs
from graphpass.passes.base import Pass
from graphpass_runtime.errors import ModelError


class PartPopulations(Pass):
    """The DA-QCFS of a population becomes one for each of its neurons, and their sum."""

    def requires(self, model: Model) -> None:
        """Raise ModelError where the graph has tensors of the names that the neurons get."""
        assert model.record is not None, "neurons live in the record"
        taken = model.graph.tensors().keys()
        for whole in [neuron for neuron in model.record.neurons if neuron.together > 1]:
            for name in populations.member_names(whole.name, whole.members):
                if name in taken:
                    raise ModelError(
                        f"has a tensor '{name}', where the population '{whole.name}' has a neuron",
                        where=model.name,
                        remedy="convert the ANN again",
                    )

    def apply(self, model: Model) -> int:
        """Records and nodes change together."""
        assert model.record is not None, "neurons live in the record"
        nodes = {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
        records: list[Neuron] = []
        count = 0
        for neuron in model.record.neurons:
            if neuron.together == 1:
                records.append(neuron)
                continue
            members = populations.apart(neuron)
            _part(model, nodes[neuron.name], members)
            records += members
            count += 1
        if count:
            model.note(neurons=tuple(records))
        return count


def _part(model: Model, node: gs.Node, members: list[Neuron]) -> None:
    current, summed = node.inputs[0], node.outputs[0]
    outputs = [gs.Variable(m.name, np.dtype(np.float32), summed.shape) for m in members]
    for member, output in zip(members, outputs, strict=True):
        single = gs.Node(
            dialect.DAQCFS, member.name, {}, [current], [output], domain=dialect.DOMAIN
        )
        daqcfs.build(model, single, member)
        model.graph.nodes.append(single)
    editing.detach(node)
    model.graph.nodes.append(gs.Node("Sum", summed.name, {}, outputs, [summed]))
