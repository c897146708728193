"""A model whose spike counts and membrane potentials can be read, and its spikes replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing, populations
from graphpass.forms import FORMS
from graphpass.model import Model, to_proto
from graphpass.neurons import Carrier, Neuron, matmul, parameters, staircase
from graphpass.running import open_session
from graphpass.timeflow import Kind, TimeType
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.session import Session
from graphpass_runtime.spikes import count_spikes

_AMPLITUDE = 3  # its place among the inputs of DA-QCFS and of neurons that send trains

Counts = NDArray[np.int32]
Arrays = Mapping[str, NDArray[Any]]


def neurons_record(model: Model) -> FileRecord:
    """The record of a file with neurons whose counts depend on nothing but their input.

    Raises:
        ModelError: it has none, or serial ones.
    """
    if model.record is None or not model.record.neurons:
        raise ModelError(
            "has no spiking neurons", where=model.name, remedy="run graphpass convert on it"
        )
    if any(neuron.carrier is Carrier.SERIAL for neuron in model.record.neurons):
        raise ModelError(
            "has serial neurons, whose spikes are not sorted and whose counts depend on the"
            " order of their input spikes, so that no other form has the same",
            where=model.name,
            remedy="verify the parallel forms, and compare serial ones by accuracy (evaluate)",
        )
    return model.record


def is_close(record: FileRecord) -> bool:
    """Does the file hold a close network, one that rounds weights, and not the same one?"""
    form = FORMS.get(record.form or "")
    return form is not None and not form.same


def spiking_record(model: Model) -> FileRecord:
    """The record of a file whose neurons can be compared count by count.

    Raises:
        ModelError: it has none, or serial ones, or its form is another network.
    """
    record = neurons_record(model)
    if is_close(record):
        raise ModelError(
            f"form '{record.form}' rounds weights: a close network, which is no reference",
            where=model.name,
            remedy="give it second, behind the network that it rounds",
        )
    return record


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model gave for a batch, by neuron name; the batch is on axis 0.

    Attributes:
        counts: int32 spike counts ``[N, ...]``; populations are one layer.
        potentials: float32 membrane potentials in thresholds, the same shape.
        outputs: the model's outputs.
    """

    counts: dict[str, Counts]
    potentials: dict[str, NDArray[np.float32]]
    outputs: list[NDArray[Any]]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the counts."""
        return {name: array.shape for name, array in self.counts.items()}


class Instrumented:
    """A model with neurons, and a session that shows what they do.

    Where the other side of a comparison has its neurons behind a MaxPool, counts and
    potentials are pooled here as well: a maximum commutes with both.

    Args:
        model: any file with neurons; it is changed.
        other: the record of the other side.
        options: for the `Session`.
    """

    def __init__(self, model: Model, other: FileRecord, options: Mapping[str, Any]) -> None:
        self._model = model
        self._options = dict(options, memory_limit=1 << 62)  # batches are small as they are
        record = spiking_record(model)
        self._neurons = {neuron.name: neuron for neuron in record.neurons}
        self._steps = record.steps or 1
        pools = {neuron.population: neuron.pools for neuron in other.neurons}
        tensors = model.graph.tensors()
        for name, neuron in self._neurons.items():
            if not {neuron.potential, neuron.spikes} <= set(tensors):
                raise _damaged(model, name, "the file does not show its potential and spikes")
        self._shown = {
            name: _shown(model, neuron, tensors, pools[neuron.population][len(neuron.pools) :])
            for name, neuron in self._neurons.items()
        }
        self._crossings = _level_crossings(model, self._neurons)
        model.graph.toposort()
        self._outputs = [output.name for output in model.graph.outputs]
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session, opened when first needed: `replay` changes the model."""
        if self._session is None:
            names = [name for pair in self._shown.values() for name in pair]
            net = to_proto(self._model)
            self._session = open_session(net, extra_outputs=names, **self._options)
        return self._session

    def read(self, feeds: Arrays) -> Reading:
        """Run a batch."""
        tensors = self.session.run(feeds)
        counts, potentials = {}, {}
        for name, neuron in self._neurons.items():
            potential, spikes = (tensors[shown] for shown in self._shown[name])
            axis = neuron.batch_axis
            try:
                own = count_spikes(neuron, spikes, self._steps)
            except ValueError as error:
                raise _damaged(self._model, name, str(error)) from error
            if potential.ndim != own.ndim or potential.shape[axis] < own.shape[axis]:
                raise _damaged(self._model, name, "its potentials and spikes differ in number")
            counts[name] = np.moveaxis(own, axis, 0)
            # The potential is the same at every step: the first one is enough.
            first = np.take(potential, range(own.shape[axis]), axis=axis)
            if (crossings := self._crossings.get(name)) is not None:
                first = staircase.potential(first, crossings, neuron.channel_axis)
            # Ties lie at whole numbers for every neuron, whichever way it rounds them.
            potentials[name] = np.moveaxis(first, axis, 0) + np.float32(0.5 - neuron.middle)
        layers = self._neurons.values()
        return Reading(
            populations.joined_counts(layers, counts),
            populations.joined_potentials(layers, potentials),
            [tensors[name] for name in self._outputs],
        )

    def comparable(self, own: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> bool:
        """Have outputs the sizes of this model's, but for those that it leaves open?"""
        specs = {spec.name: spec for spec in self.session.outputs}
        return len(own) == len(others) and all(
            mine.ndim == other.ndim and specs[name].fits(other.shape)
            for name, mine, other in zip(self._outputs, own, others, strict=True)
        )

    def check_unpooled(self) -> None:
        """Refuse counts that are those of pooled neurons, where these are not pooled.

        Raises:
            ModelError: the other side has neurons behind a MaxPool that stand before it here.
        """
        for name, (_, spikes) in self._shown.items():
            if spikes != self._neurons[name].spikes:
                raise ModelError(
                    f"neuron '{name}' stands in front of a MaxPool, in the reference behind",
                    where=self._model.name,
                    remedy="swap the two files",
                )

    def replay(self, counts: Mapping[str, Counts]) -> dict[str, NDArray[np.float32]]:
        """Feeds that let every reader of a neuron read these counts instead of its own.

        They are counts of the neurons themselves, not behind the pools of the other side.
        """
        own = populations.counts_apart(self._neurons.values(), counts)
        if self._session is None:
            self._accept_counts({name: array.ndim for name, array in own.items()})
        return {
            _fed(name): np.moveaxis(array, 0, self._neurons[name].batch_axis).astype(np.float32)
            for name, array in own.items()
        }

    def _accept_counts(self, ranks: Mapping[str, int]) -> None:
        spikes_of = {neuron.spikes: neuron for neuron in self._neurons.values()}
        graph = self._model.graph
        for node in [n for n in graph.nodes if editing.is_dialect(n, *dialect.SPIKING)]:
            spikes = node.outputs[-1]
            neuron = spikes_of[spikes.name]
            counts = gs.Variable(
                _fed(neuron.name), np.dtype(np.float32), [None] * ranks[neuron.name]
            )
            counts.shape[neuron.batch_axis] = "N"
            graph.inputs.append(counts)
            if neuron.carrier is Carrier.TRAIN:
                _fire_again(self._model, node, neuron, counts)
                continue
            if node.outputs[0] is not spikes:  # what follows reads currents
                _carry(self._model, node, neuron, counts)
            editing.redirect(self._model, spikes, counts)
        graph.toposort()


def _level_crossings(model: Model, neurons: Mapping[str, Neuron]) -> dict[str, NDArray[np.float32]]:
    """Neurons that show their mean current, with what their potential is found by."""
    by_spikes = {neuron.spikes: neuron for neuron in neurons.values()}
    found = {}
    for node in model.graph.nodes:
        if editing.is_dialect(node, dialect.STAIRCASE_SPIKES, dialect.STAIRCASE_SPIKES_STATIC):
            neuron = by_spikes[node.outputs[-1].name]
            try:
                found[neuron.name] = staircase.crossings_of(node, neuron)
            except ValueError as error:
                raise _damaged(model, neuron.name, str(error)) from error
    return found


def _damaged(model: Model, neuron: str, what: str) -> ModelError:
    return ModelError(
        f"neuron '{neuron}' is not what the metadata says ({what})",
        where=model.name,
        remedy="convert the ANN again",
    )


def _fed(name: str) -> str:
    return f"{name}/reference_counts"


def _shown(
    model: Model,
    neuron: Neuron,
    tensors: Mapping[str, gs.Tensor],
    pools: tuple[Mapping[str, Any], ...],
) -> tuple[str, str]:
    """Names of the tensors that show a neuron's potential and spikes, pooled if asked for."""
    if not pools:
        return neuron.potential, neuron.spikes
    potential = _pooled(model, tensors[neuron.potential], pools, f"{neuron.name}/pooled_potential")
    return potential, pooled_spikes(model, neuron, tensors, pools)


def pooled_spikes(
    model: Model,
    neuron: Neuron,
    tensors: Mapping[str, gs.Tensor],
    pools: tuple[Mapping[str, Any], ...],
) -> str:
    """Name of the tensor of a neuron's spikes behind max pools, which the model gets."""
    if not pools:
        return neuron.spikes
    real = gs.Variable(f"{neuron.name}/real_spikes", np.dtype(np.float32))
    cast = gs.Node("Cast", attrs={"to": 1}, inputs=[tensors[neuron.spikes]], outputs=[real])
    model.graph.nodes.append(cast)
    return _pooled(model, real, pools, f"{neuron.name}/pooled_spikes")


def _pooled(
    model: Model, source: gs.Tensor, pools: tuple[Mapping[str, Any], ...], name: str
) -> str:
    for index, pool in enumerate(pools):
        pooled = gs.Variable(f"{name}_{index}", np.dtype(np.float32))
        attrs = dict(pool["attrs"])
        model.graph.nodes.append(
            gs.Node(pool["op"], attrs=attrs, inputs=[source], outputs=[pooled])
        )
        source = pooled
    return str(source.name)


def _carry(model: Model, node: gs.Node, neuron: Neuron, counts: gs.Variable) -> None:
    """What a neuron passes on becomes its amplitude times these counts."""
    flows = node.outputs[0]
    node.outputs[0] = gs.Variable(f"{neuron.name}/own_output")
    inputs = [counts, node.inputs[_AMPLITUDE]]
    model.graph.nodes.append(gs.Node("Mul", f"{neuron.name}/replayed", {}, inputs, [flows]))


def _fire_again(model: Model, node: gs.Node, neuron: Neuron, counts: gs.Variable) -> None:
    """A second neuron takes over the train of the first.

    With threshold T and no shift it turns a count n into exactly n spikes; what they carry
    is still the file's own amplitude.
    """
    flows, amplitude = node.outputs[0], node.inputs[_AMPLITUDE]
    node.outputs[0] = gs.Variable(f"{neuron.name}/own_output")
    unit = replace(
        neuron,
        name=f"{neuron.name}/replayed",
        threshold=np.full_like(neuron.threshold, neuron.levels),
        shift=np.zeros_like(neuron.shift),
    )
    again = gs.Node(
        dialect.with_ties(dialect.DAQCFS, neuron.ties),
        domain=dialect.DOMAIN,
        inputs=parameters.inputs(model, unit, counts),
        outputs=parameters.outputs(unit, flows),
    )
    matmul.build(model, again, unit, TimeType(Kind.STATIC, neuron.batch_axis))
    again.inputs[_AMPLITUDE] = amplitude
    model.graph.nodes.append(again)
