"""Stage 4: each DA-QCFS becomes a layer of spiking neurons."""

from __future__ import annotations

from dataclasses import replace

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import FORMS
from graphpass.passes.base import Pass
from graphpass.timeflow import TimeFlow


class EmitSpikes(Pass):
    """Build every neuron of the record in the chosen form."""

    def __init__(self, flow: TimeFlow, form: str) -> None:
        """Take the time flow of stage 3 and the name of a form."""
        self._flow = flow
        self._form = form

    def apply(self, model: Model) -> int:
        """Records and nodes change together."""
        assert model.record is not None, "neurons live in the record"
        carrier, build = FORMS[self._form]
        records = {neuron.name: neuron for neuron in model.record.neurons}
        count = 0
        for node in model.graph.nodes:
            if editing.is_dialect(node, dialect.DAQCFS):
                name = node.outputs[0].name
                records[name] = replace(records[name], carrier=carrier)
                source = self._flow.types[node.inputs[0].name]
                build(model, node, records[name], source)
                count += 1
        model.note(neurons=tuple(records.values()), form=self._form)
        return count
