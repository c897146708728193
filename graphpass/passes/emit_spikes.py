"""Stage 4: each DA-QCFS becomes a layer of neurons that send trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import Carrier, Neuron
from graphpass.passes.base import Pass
from graphpass.timeflow import TimeFlow, TimeType

Builder = Callable[[Model, gs.Node, Neuron, TimeType], None]


class EmitSpikes(Pass):
    """Build the subgraph of every neuron of the record."""

    def __init__(self, flow: TimeFlow, build: Builder) -> None:
        """Take the time flow of stage 3 and the builder of a neuron."""
        self._flow = flow
        self._build = build

    def apply(self, model: Model) -> int:
        """Records and nodes change together."""
        assert model.record is not None, "neurons live in the record"
        records = {neuron.name: neuron for neuron in model.record.neurons}
        count = 0
        for node in model.graph.nodes:
            if editing.is_dialect(node, dialect.DAQCFS):
                name = node.outputs[0].name
                records[name] = replace(records[name], carrier=Carrier.TRAIN)
                source = self._flow.types[node.inputs[0].name]
                self._build(model, node, records[name], source)
                count += 1
        model.note(neurons=tuple(records.values()))
        return count
