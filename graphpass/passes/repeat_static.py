"""Stage 4: where a static tensor meets one that varies in time, it is repeated."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.timeflow import TimeFlow


class RepeatStatic(Pass):
    """Insert `graphpass::RepeatInTime`: `[N, ...]` becomes `[T*N, ...]`.

    Without it a residual Add of the two broadcasts at N = 1 and fails at N = 2.
    """

    def __init__(self, flow: TimeFlow, steps: int) -> None:
        """Take the time flow of stage 3 and the number of time-steps."""
        self._flow = flow
        self._steps = steps

    def apply(self, model: Model) -> int:
        """One repetition per tensor, however many read it."""
        tensors = model.graph.tensors()
        for name, readers in self._flow.repeated.items():
            static, kind = tensors[name], self._flow.types[name]
            repeats = np.ones(len(self._flow.shapes[name]), np.int64)
            repeats[kind.batch_axis] = self._steps
            repeated = gs.Variable(editing.fresh_name(model, f"{name}/in_time"), static.dtype)
            for node in readers:
                node.inputs = [repeated if tensor is static else tensor for tensor in node.inputs]
            model.graph.nodes.append(
                gs.Node(
                    dialect.REPEAT_IN_TIME,
                    name=repeated.name,
                    domain=dialect.DOMAIN,
                    inputs=[static, editing.constant(model, f"{name}/repeats", repeats)],
                    outputs=[repeated],
                )
            )
        return len(self._flow.repeated)
