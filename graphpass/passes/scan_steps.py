"""Stage 4, serial: the graph of one time-step becomes the body of one Scan."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import State

_OLDEST_OPSET = 9  # the Scan of opset 8 has a batch axis of its own
_INT64 = np.dtype(np.int64)


class ScanSteps(Pass):
    """What lies between the states before a step and those after it moves into a Scan.

    What does not change in time stays outside and is computed once; the body reads it as
    it reads any tensor of the graph around it. What only reads the last states, the
    means and the tail, stays outside too.
    """

    def __init__(self, steps: int) -> None:
        """Take the number of time-steps."""
        self._steps = steps

    def requires(self, model: Model) -> None:
        """A Scan of today's form, and a known batch."""
        if model.opset < _OLDEST_OPSET:
            raise ModelError(
                f"opset {model.opset} has no Scan over states alone",
                where=model.name,
                remedy=f"export it with opset {_OLDEST_OPSET} or newer, or use --serial step",
            )

    def apply(self, model: Model) -> int:
        """The states stop being inputs and outputs."""
        assert model.record is not None, "the states are in the record"
        states, graph = model.record.states, model.graph
        if not states:
            return 0
        before = _take(graph.inputs, [state.input for state in states])
        after = _take(graph.outputs, [state.output for state in states])
        nodes = _between(before, after)
        inside = {id(node) for node in nodes}
        _copy_shared_constants(model, nodes, inside)
        last = [_outside(model, tensor, inside) for tensor in after]
        graph.nodes = [node for node in graph.nodes if id(node) not in inside]
        number = gs.Variable("graphpass/step", np.dtype(np.float32), [])
        body = gs.Graph(
            nodes=nodes,
            inputs=[*before, number],
            outputs=after,
            name="time_step",
            opset=model.opset,
        )
        numbers = np.arange(1, self._steps + 1, dtype=np.float32)
        scan = gs.Node(
            "Scan",
            name="graphpass/scan",
            attrs={"body": body, "num_scan_inputs": 1},
            inputs=[
                *_zeros(model, states),
                editing.constant(model, "graphpass/step_numbers", numbers),
            ],
            outputs=last,
        )
        graph.nodes.append(scan)
        model.note(states=())
        return 1


def _take(tensors: list[gs.Tensor], names: list[str]) -> list[gs.Variable]:
    """Remove tensors from a graph's interface, in the order of their names."""
    by_name = {tensor.name: tensor for tensor in tensors}
    taken = [by_name[name] for name in names]
    for tensor in taken:
        position = next(i for i, t in enumerate(tensors) if t is tensor)
        del tensors[position]
    return taken


def _between(before: list[gs.Variable], after: list[gs.Variable]) -> list[gs.Node]:
    """Nodes that hang on a state and that a state hangs on."""
    downstream: set[int] = set()
    waiting = [node for tensor in before for node in tensor.outputs]
    while waiting:
        node = waiting.pop()
        if id(node) not in downstream:
            downstream.add(id(node))
            waiting += [reader for output in node.outputs for reader in output.outputs]
    found: dict[int, gs.Node] = {}
    waiting = [node for tensor in after for node in tensor.inputs]
    while waiting:
        node = waiting.pop()
        if id(node) in downstream and id(node) not in found:
            found[id(node)] = node
            waiting += [writer for tensor in node.inputs for writer in tensor.inputs]
    return list(found.values())


def _copy_shared_constants(model: Model, nodes: Iterable[gs.Node], inside: set[int]) -> None:
    """Constants that are read on both sides: the body has its own, since names are scoped."""
    copies: dict[int, gs.Constant] = {}
    for node in nodes:
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and any(
                id(reader) not in inside for reader in tensor.outputs
            ):
                if id(tensor) not in copies:
                    copies[id(tensor)] = editing.constant(
                        model, f"{tensor.name}/in_step", tensor.values
                    )
                node.inputs[index] = copies[id(tensor)]


def _outside(model: Model, tensor: gs.Variable, inside: set[int]) -> gs.Variable:
    """The state after the last step, which the nodes outside read."""
    last = gs.Variable(editing.fresh_name(model, f"{tensor.name}/last"), tensor.dtype, tensor.shape)
    for node in list(tensor.outputs):
        if id(node) not in inside:
            node.inputs = [last if t is tensor else t for t in node.inputs]
    return last


def _zeros(model: Model, states: Iterable[State]) -> list[gs.Variable]:
    """The states before the first step; states of one shape share their zeros."""
    batch = _batch_size(model)
    made: dict[tuple[object, ...], gs.Variable] = {}
    for state in states:
        key = (state.batch_axis, *state.shape)
        if key not in made:
            made[key] = _zeros_like(model, state, batch)
    return [made[(state.batch_axis, *state.shape)] for state in states]


def _zeros_like(model: Model, state: State, batch: gs.Variable) -> gs.Variable:
    name, axis = f"{state.input}/start", state.batch_axis
    nodes = []
    if axis is None:
        shape: gs.Tensor = editing.constant(model, f"{name}/shape", np.array(state.shape, np.int64))
    else:
        size = batch
        if state.shape[axis] != 1:
            size = gs.Variable(f"{name}/rows", _INT64, [1])
            factor = editing.constant(
                model, f"{name}/rows_per_sample", np.array([state.shape[axis]], np.int64)
            )
            nodes.append(gs.Node("Mul", size.name, inputs=[batch, factor], outputs=[size]))
        parts = [
            editing.constant(model, f"{name}/{side}", np.array(sizes, np.int64))
            for side, sizes in (("lead", state.shape[:axis]), ("rest", state.shape[axis + 1 :]))
        ]
        shape = gs.Variable(f"{name}/shape", _INT64, [len(state.shape)])
        nodes.append(
            gs.Node(
                "Concat",
                shape.name,
                attrs={"axis": 0},
                inputs=[parts[0], size, parts[1]],
                outputs=[shape],
            )
        )
    zeros = gs.Variable(name, np.dtype(np.float32))
    value = gs.Constant("value", np.zeros(1, np.float32))
    nodes.append(
        gs.Node("ConstantOfShape", name, attrs={"value": value}, inputs=[shape], outputs=[zeros])
    )
    model.graph.nodes += nodes
    return zeros


def _batch_size(model: Model) -> gs.Variable:
    """The number of samples, as a vector of one number."""
    source = next(
        (t for t in model.graph.inputs if t.shape and not isinstance(t.shape[0], int)), None
    )
    if source is None:
        raise ModelError(
            "has no input with a batch axis of free size",
            where=model.name,
            remedy="export it with a dynamic batch axis, or use --method parallel",
        )
    shape = gs.Variable("graphpass/input_shape", _INT64)
    batch = gs.Variable("graphpass/batch", _INT64, [1])
    first = editing.constant(model, "graphpass/batch_axis", np.array([0], np.int64))
    model.graph.nodes += [
        gs.Node("Shape", shape.name, inputs=[source], outputs=[shape]),
        gs.Node("Gather", batch.name, attrs={"axis": 0}, inputs=[shape, first], outputs=[batch]),
    ]
    return batch
