"""A network whose neurons can be switched on one by one.

Every activation stands in it twice, as in the ANN and as the neuron that replaces it, with a
scalar input that says which of the two flows on::

    y = (1 - gate) ANN activation(z) + gate DA-QCFS(z)

All gates at 0 it is the ANN, all at 1 the SNN, and anything between is half converted. A
gate of 0 or 1 selects exactly, since all values are finite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing, populations, stages
from graphpass.consistency import activation_of, check_stage_file
from graphpass.model import Model, infer_shapes, load, to_proto
from graphpass.neurons import Carrier, Neuron, daqcfs
from graphpass.passes.bound_functions import bound_for
from graphpass.passes.spread_skips import spread_for
from graphpass.running import OpenSession
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import Stage
from graphpass_runtime.model_data import PathLike
from graphpass_runtime.session import Session, TensorSpec

Feeds = Mapping[str, NDArray[Any]]

_FLOAT = np.dtype(np.float32)
_LARGEST_BATCH = 32
_HELD = 1 << 23  # elements of one tensor; the network holds a few such at once
_SEEN = 1 << 22  # elements of all layers; a view has four arrays, two views are compared


@dataclass(frozen=True, eq=False)
class View:
    """One neuron on one batch, while the gates are as they are.

    Attributes:
        current: what it reads, float32.
        ann: what the ANN's activation makes of that.
        snn: what the neuron makes of it.
        counts: how often it fires, as float32.
    """

    current: NDArray[np.float32]
    ann: NDArray[np.float32]
    snn: NDArray[np.float32]
    counts: NDArray[np.float32]


class Substitution:
    """The network with switches, in a session.

    Args:
        ann: the ANN as a file of stage 0 or 1 has it; it is changed.
        neurons: what replaces its activations, in topological order.
        open_session: as `graphpass.running.open_session`.

    Attributes:
        neurons: by name, in topological order, populations as one.
        batch: samples that fit into memory comfortably, for `run`.
        small_batch: the same for `look`, which keeps what it sees of all layers.

    Raises:
        ModelError: a neuron's activation is not in the ANN.
    """

    def __init__(self, ann: Model, neurons: Sequence[Neuron], open_session: OpenSession) -> None:
        self.neurons = {neuron.name: neuron for neuron in populations.joined(neurons)}
        self._outputs = [tensor.name for tensor in ann.graph.outputs]
        bound_for(ann, self.neurons.values())
        spread_for(ann, self.neurons.values())
        self._shown = {name: self._split(ann, neuron) for name, neuron in self.neurons.items()}
        shown = _elements(ann, [four[0] for four in self._shown.values()])
        fitting = _fitting(stages.largest_tensor(ann), _HELD)
        fitting_small = 1 if shown is None else _fitting(shown, _SEEN)
        editing.tidy(ann)
        self._net = to_proto(ann)
        self._open = open_session
        self.session = open_session(self._net)
        # Outputs may have no axis to join pieces on.
        self.batch = self.session.batch or fitting
        self.small_batch = self.session.batch or fitting_small
        self._windows: Session | None = None

    @property
    def inputs(self) -> list[TensorSpec]:
        """The ANN's inputs."""
        gates = {_gate(name) for name in self.neurons}
        return [spec for spec in self.session.inputs if spec.name not in gates]

    def run(self, feeds: Feeds, spiking: Collection[str]) -> list[NDArray[Any]]:
        """The outputs with these neurons switched on."""
        found = self.session.run({**feeds, **self._gates(spiking)}, self._outputs)
        return [found[name] for name in self._outputs]

    def look(self, feeds: Feeds, spiking: Collection[str]) -> dict[str, View]:
        """Every neuron's view with these neurons switched on.

        All of them are in memory at once: feed `small_batch` samples.
        """
        if self._windows is None:
            names = list(dict.fromkeys(name for four in self._shown.values() for name in four))
            self._windows = self._open(self._net, extra_outputs=names)
        found = self._windows.run({**feeds, **self._gates(spiking)})
        return {name: View(*(found[shown] for shown in four)) for name, four in self._shown.items()}

    def _gates(self, spiking: Collection[str]) -> dict[str, NDArray[np.float32]]:
        return {_gate(name): np.array(name in spiking, np.float32) for name in self.neurons}

    @staticmethod
    def _split(ann: Model, neuron: Neuron) -> tuple[str, str, str, str]:
        """Put the neuron beside its activation; names of the tensors of its `View`."""
        node = activation_of(ann, neuron)
        current, flows = node.inputs[0], node.outputs[0]
        shape = flows.shape
        kept = gs.Variable(f"{neuron.name}/ann", _FLOAT, shape)
        made = gs.Variable(f"{neuron.name}/snn", _FLOAT, shape)
        twin = gs.Node(
            *(node.op, f"{neuron.name}/snn"),
            inputs=[current],
            outputs=[made],
            domain=node.domain,
        )
        # A finished file's neurons may be trains, or stand behind a MaxPool.
        daqcfs.build(ann, twin, replace(neuron, carrier=Carrier.COUNT, pools=()))
        if editing.is_dialect(node, dialect.CLIP_ABOVE):  # the ANN's function has no bounds
            current = twin.inputs[0]
            node.op, node.domain, node.inputs = "Identity", None, [current]
        node.outputs[0] = kept
        gate = gs.Variable(_gate(neuron.name), _FLOAT, ())
        ann.graph.inputs.append(gate)
        one = editing.constant(ann, f"{neuron.name}/one", np.array(1, np.float32))
        closed, left, right = (
            gs.Variable(f"{neuron.name}/{part}", _FLOAT) for part in ("closed", "left", "right")
        )
        ann.graph.nodes += [
            twin,
            gs.Node("Sub", inputs=[one, gate], outputs=[closed]),
            gs.Node("Mul", inputs=[kept, closed], outputs=[left]),
            gs.Node("Mul", inputs=[made, gate], outputs=[right]),
            gs.Node("Add", inputs=[left, right], outputs=[flows]),
        ]
        return current.name, kept.name, made.name, neuron.spikes


def load_ann(path: PathLike) -> Model:
    """An ANN, normalised, or a file of stage 0 or 1 as it is.

    Raises:
        ModelError: the file cannot be read, or is of a later stage.
    """
    model = load(path)
    if model.record is None:
        stages.normalise(model)
    elif model.record.stage not in (Stage.NORMALISED, Stage.CLIP):
        raise ModelError(
            f"is a file of stage {model.record.stage}, which has lost the ANN's activations",
            where=model.name,
            remedy="give the ANN that the SNN was converted from",
        )
    check_stage_file(model)
    infer_shapes(model)
    return model


def _fitting(elements: int, most: int) -> int:
    return max(1, min(_LARGEST_BATCH, most // max(1, elements)))


def _gate(name: str) -> str:
    return f"{name}/gate"


def _elements(ann: Model, names: Sequence[str]) -> int | None:
    tensors = ann.graph.tensors()
    shapes = [list(tensors[name].shape or [None, None])[1:] for name in names]
    if any(not isinstance(size, int) for shape in shapes for size in shape):
        return None
    return sum(int(np.prod(shape)) for shape in shapes)
