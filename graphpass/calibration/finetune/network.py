"""A graph of stage 2 as a torch module, and its weights back into the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from graphpass import dialect, editing
from graphpass.calibration.finetune import layout, windows
from graphpass.calibration.finetune.neurons import Activation
from graphpass.calibration.finetune.operators import Call, find_operator
from graphpass.model import Model

__all__ = ["Network", "layout", "windows"]

Values = dict[str, Tensor]

# What is learned: inputs of these operators that are float initializers.
_LEARNED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
}


class Network(nn.Module):
    """Runs the nodes of a graph in order; every activation is looked up by its name.

    Args:
        model: stage 2; it is read, and changed by `write_back` alone.

    Raises:
        ModelError: a node that gradients cannot be taken through.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._last_reader = _last_readers(model)
        self._constants: dict[int, Tensor] = {}  # id of a gs.Constant -> its values
        self._places: dict[tuple[int, int], int] = {}  # (id of node, input) -> weight
        self._learned: dict[int, int] = {}  # id of a gs.Constant -> weight
        self.weights = nn.ParameterList()
        for node in model.graph.nodes:
            if not _is_neuron(node) and find_operator(node) is None:
                raise self._call(node, ()).refusal("is an operator that finetuning does not know")
            for index, tensor in enumerate(node.inputs):
                if isinstance(tensor, gs.Constant):
                    self._add_constant(tensor)
                    self._learn(node, index, tensor)
        for tensor in model.graph.outputs:
            if isinstance(tensor, gs.Constant):
                self._add_constant(tensor)

    def forward(
        self, feeds: Mapping[str, Tensor], neurons: Mapping[str, Activation]
    ) -> tuple[Values, Values]:
        """Run a batch.

        Args:
            feeds: a tensor for every input.
            neurons: what each neuron computes from its current.

        Returns:
            The outputs of the graph, and those of the neurons, by name.
        """
        values, activations = dict(feeds), {}
        for position, node in enumerate(self._model.graph.nodes):
            inputs = [self._value(node, i, values) for i in range(len(node.inputs))]
            name = node.outputs[0].name
            if _is_neuron(node):
                assert inputs[0] is not None, "a neuron has a current"
                values[name] = activations[name] = neurons[name](inputs[0])
            else:
                for output, result in zip(node.outputs, self._run(node, inputs), strict=False):
                    values[output.name] = result
            for spent in self._last_reader.get(position, ()):
                values.pop(spent, None)
        return {t.name: self._given(t, values) for t in self._model.graph.outputs}, activations

    def write_back(self) -> None:
        """Put the weights into the graph, as new initializers: old ones may have other uses."""
        written: dict[int, gs.Constant] = {}
        for node in self._model.graph.nodes:
            for index, tensor in enumerate(node.inputs):
                weight = self._places.get((id(node), index))
                if weight is None:
                    continue
                if weight not in written:
                    array = self.weights[weight].detach().numpy().copy()
                    name = f"{tensor.name}/finetuned"
                    written[weight] = editing.constant(self._model, name, array)
                node.inputs[index] = written[weight]

    def _add_constant(self, tensor: gs.Constant) -> None:
        if id(tensor) not in self._constants:
            self._constants[id(tensor)] = torch.from_numpy(np.array(tensor.values))

    def _learn(self, node: gs.Node, index: int, tensor: gs.Constant) -> None:
        values = self._constants[id(tensor)]
        positions = _LEARNED.get(node.op, ()) if editing.is_standard(node, node.op) else ()
        if index in positions and values.dtype == torch.float32:
            if id(tensor) not in self._learned:
                self._learned[id(tensor)] = len(self.weights)
                self.weights.append(nn.Parameter(values.clone()))
            self._places[id(node), index] = self._learned[id(tensor)]

    def _value(self, node: gs.Node, index: int, values: Values) -> Tensor | None:
        tensor, weight = node.inputs[index], self._places.get((id(node), index))
        if weight is not None:
            learned: Tensor = self.weights[weight]
            return learned
        return None if tensor.is_empty() else self._given(tensor, values)

    def _given(self, tensor: gs.Tensor, values: Values) -> Tensor:
        if isinstance(tensor, gs.Constant):
            return self._constants[id(tensor)]
        return values[tensor.name]

    def _run(self, node: gs.Node, inputs: list[Tensor | None]) -> Sequence[Tensor]:
        call, function = self._call(node, inputs), find_operator(node)
        assert function is not None, "known operators only, see __init__"
        try:
            found = function(call)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise call.refusal(f"cannot be run in torch ({_first_line(error)})") from error
        results = [found] if isinstance(found, Tensor) else found
        if any(self._is_read(output) for output in node.outputs[len(results) :]):
            raise call.refusal("has a further output that is used")
        return results

    def _call(self, node: gs.Node, inputs: Sequence[Tensor | None]) -> Call:
        return Call(node, inputs, self._model.opset, self._model.name)

    def _is_read(self, tensor: gs.Tensor) -> bool:
        return bool(tensor.outputs) or editing.is_output(self._model, tensor)


def _is_neuron(node: gs.Node) -> bool:
    return editing.is_dialect(node, dialect.DAQCFS)


def _last_readers(model: Model) -> dict[int, list[str]]:
    """Position of a node -> the tensors that nothing behind it reads."""
    last = {
        tensor.name: position
        for position, node in enumerate(model.graph.nodes)
        for tensor in node.inputs
        if isinstance(tensor, gs.Variable) and not tensor.is_empty()
    }
    outputs = {tensor.name for tensor in model.graph.outputs}
    result: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in outputs:
            result.setdefault(position, []).append(name)
    return result


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
