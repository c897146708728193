"""Stage 4: the mean over time, in front of the tail, of islands, and at the outputs."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import folding
from graphpass.passes.base import Pass
from graphpass.timeflow import TimeFlow, TimeType


class AverageTime(Pass):
    """Insert `graphpass::MeanOverTime` wherever time flow says that a mean is read.

    Graph outputs keep their names: the varying tensor behind one is renamed.
    """

    def __init__(self, flow: TimeFlow, steps: int) -> None:
        """Take the time flow of stage 3 and the number of time-steps."""
        self._flow = flow
        self._steps = steps

    def apply(self, model: Model) -> int:
        """One mean per tensor, however many read it."""
        tensors = model.graph.tensors()
        for name, readers in self._flow.averaged.items():
            self._average(model, tensors[name], self._flow.types[name], readers)
        return len(self._flow.averaged)

    def _average(
        self, model: Model, varying: gs.Tensor, kind: TimeType, readers: list[gs.Node]
    ) -> None:
        name, shape = varying.name, self._flow.shapes[varying.name]
        mean = gs.Variable(editing.fresh_name(model, f"{name}/mean"), varying.dtype, shape)
        for node in readers:
            editing.replace_input(node, varying, mean)
        if editing.is_output(model, varying):
            varying.name, mean.name = editing.fresh_name(model, f"{name}/in_time"), name
            model.graph.outputs = [mean if t is varying else t for t in model.graph.outputs]
        weights = np.full((1, self._steps), 1.0 / self._steps, varying.dtype or np.float32)
        node = gs.Node(
            dialect.MEAN_OVER_TIME,
            name=mean.name,
            domain=dialect.DOMAIN,
            inputs=[
                varying,
                editing.constant(model, f"{name}/average", weights),
                folding.split(model, name, shape, kind, self._steps),
                *folding.unfolded(model, name, shape, kind),
            ],
            outputs=[mean],
        )
        model.graph.nodes.append(node)
