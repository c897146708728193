"""Stage 4, serial: the graph of one time-step, its states inputs and outputs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.neurons import Carrier, serial_if
from graphpass.passes.base import Pass
from graphpass.timeflow import Shape, TimeFlow, TimeType
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import State

_FLOAT = np.dtype(np.float32)
_COUNTER = "graphpass/steps_done"


class ExposeStates(Pass):
    """Every neuron becomes an IF neuron, and every mean over time a running mean.

    The states are the membrane potential of each neuron, the sum of each tensor that
    time flow says is averaged, and the number of steps done. All start at zero.
    """

    def __init__(self, flow: TimeFlow) -> None:
        """Take the time flow of stage 3."""
        self._flow = flow
        self._states: list[State] = []

    def requires(self, model: Model) -> None:
        """Rectifiers: an IF neuron reads its current step by step."""
        assert model.record is not None, "neurons live in the record"
        for neuron in model.record.neurons:
            if neuron.baseline is not None:
                raise ModelError(
                    f"integrate-and-fire neurons cannot stand for '{neuron.name}', which is no"
                    " rectifier: a function of each step is not one of their mean",
                    where=model.name,
                    remedy="keep it (--keep), or use --method parallel",
                )

    def apply(self, model: Model) -> int:
        """Neurons first, since they keep their names; then the means."""
        assert model.record is not None, "neurons live in the record"
        records = {neuron.name: neuron for neuron in model.record.neurons}
        for node in model.graph.nodes:
            if editing.is_dialect(node, dialect.DAQCFS):
                name = node.outputs[0].name
                records[name] = replace(records[name], carrier=Carrier.SERIAL)
                before, after = self._state(model, f"{name}/state", node.inputs[0].name)
                serial_if.build(model, node, records[name], before, after)
        if self._states:
            tensors, done = model.graph.tensors(), self._count(model)
            for name, readers in self._flow.averaged.items():
                self._average(model, tensors[name], readers, done)
        model.note(neurons=tuple(records.values()), states=tuple(self._states))
        return len(self._states)

    def _state(self, model: Model, name: str, like: str) -> tuple[gs.Variable, gs.Variable]:
        """A state in the shape of another tensor."""
        kind, shape = self._flow.types[like], self._flow.shapes[like]
        single = _single_sample(model, like, shape, kind)
        symbolic: Shape = list(single)
        assert kind.batch_axis is not None, "time flow refuses neurons without a batch"
        symbolic[kind.batch_axis] = _symbol(shape[kind.batch_axis], kind)
        state = State(name, f"{name}/next", single, kind.batch_axis)
        return self._add(model, state, symbolic)

    def _add(self, model: Model, state: State, shape: Shape) -> tuple[gs.Variable, gs.Variable]:
        before, after = (gs.Variable(n, _FLOAT, shape) for n in (state.input, state.output))
        model.graph.inputs.append(before)
        model.graph.outputs.append(after)
        self._states.append(state)
        return before, after

    def _count(self, model: Model) -> gs.Variable:
        state = State(_COUNTER, f"{_COUNTER}/next", (1,))
        before, after = self._add(model, state, [1])
        one = editing.constant(model, "graphpass/one_step", np.ones(1, np.float32))
        model.graph.nodes.append(gs.Node("Add", _COUNTER, inputs=[before, one], outputs=[after]))
        return after

    def _average(
        self, model: Model, varying: gs.Tensor, readers: list[gs.Node], done: gs.Variable
    ) -> None:
        name = varying.name
        before, after = self._state(model, editing.fresh_name(model, f"{name}/sum"), name)
        mean = gs.Variable(editing.fresh_name(model, f"{name}/mean"), _FLOAT, varying.shape)
        for node in readers:
            editing.replace_input(node, varying, mean)
        if editing.is_output(model, varying):
            varying.name, mean.name = editing.fresh_name(model, f"{name}/in_time"), name
            model.graph.outputs = [mean if t is varying else t for t in model.graph.outputs]
        model.graph.nodes += [
            gs.Node("Add", after.name, inputs=[before, varying], outputs=[after]),
            gs.Node("Div", mean.name, inputs=[after, done], outputs=[mean]),
        ]


def state_elements(flow: TimeFlow, neurons: list[str]) -> int:
    """Elements per sample of the membrane potentials."""
    return sum(
        math.prod(size for axis, size in enumerate(flow.shapes[name]) if axis != kind.batch_axis)
        * kind.inner
        for name in neurons
        for kind in [flow.types[name]]
    )


def _single_sample(model: Model, name: str, shape: Shape, kind: TimeType) -> tuple[int, ...]:
    sizes = [kind.inner if axis == kind.batch_axis else s for axis, s in enumerate(shape)]
    if not sizes or not all(isinstance(size, int) for size in sizes):
        raise ModelError(
            f"tensor '{name}' has axes of unknown size, and a serial neuron's state starts as"
            " zeros of known size",
            where=model.name,
            remedy="export the model with a fixed image size, or use --method parallel",
        )
    return tuple(sizes)


def _symbol(size: object, kind: TimeType) -> object:
    """What the batch axis of a state is called: the batch itself, or a multiple of it."""
    if isinstance(size, str):
        return size
    return "N" if kind.inner == 1 else f"{kind.inner}*N"
