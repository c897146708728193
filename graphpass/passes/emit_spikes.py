"""Stage 4: each DA-QCFS becomes a layer of neurons that send trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import Carrier, Neuron, folding, staircase
from graphpass.passes.base import Pass
from graphpass.regions import Region, find_regions, region_up_to
from graphpass.timeflow import TimeFlow, TimeType
from graphpass_runtime.errors import ModelError

Builder = Callable[[Model, gs.Node, Neuron, TimeType], None]


class EmitSpikes(Pass):
    """Build the subgraph of every neuron of the record."""

    def __init__(self, flow: TimeFlow, build: Builder, *, one_row: bool = False) -> None:
        """Take what neurons are built from.

        Args:
            flow: time flow of stage 3.
            build: the builder of a rectifying neuron.
            one_row: neurons behind scalar functions are charged by one sum, not by a row of
                the conversion matrix for each step.
        """
        self._flow = flow
        self._build = build
        self._one_row = one_row

    def apply(self, model: Model) -> int:
        """Records and nodes change together."""
        assert model.record is not None, "neurons live in the record"
        records = {neuron.name: neuron for neuron in model.record.neurons}
        regions = find_regions(model)
        count = 0
        for node in model.graph.nodes:
            if editing.is_dialect(node, dialect.DAQCFS):
                name = node.outputs[0].name
                records[name] = replace(records[name], carrier=Carrier.TRAIN)
                source = self._flow.types[node.inputs[0].name]
                if records[name].baseline is None:
                    self._build(model, node, records[name], source)
                else:
                    region = _function(model, node, regions)
                    rows = 1 if self._one_row else folding.slots(model)
                    staircase.build(model, node, records[name], source, region, rows)
                count += 1
        model.note(neurons=tuple(records.values()))
        return count


def _function(model: Model, node: gs.Node, regions: Mapping[str, Region]) -> Region:
    region = region_up_to(regions, node.inputs[0])
    if region is None:
        raise ModelError(
            f"there is no scalar function before neuron '{node.outputs[0].name}'",
            where=model.name,
            remedy="convert the ANN again",
        )
    return region
