"""Does an `int8` file compute what its integers say, and how close is it to its reference?

Form `int8` is another network than the one that it rounds, so that spike counts may differ.
Two things can be right or wrong nevertheless, and are judged:

- every level that ONNX Runtime rounds to, in its integer kernels, is the one that exact
  arithmetic on the file's integers gives (`graphpass.integer_reference`),
- the integers are those that the reference rounds to, where the reference can say so: an
  ANN or a stage file, from which the form is emitted again.

How far counts and outputs are from the reference's is reported, not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from graphpass import large_weights, stages
from graphpass.calibration.measuring import count
from graphpass.instrument import Counts, Instrumented, pooled_spikes
from graphpass.integer_reference import NEAR_LEVEL, IntegerReference
from graphpass.model import Model, copied, infer_shapes, to_proto
from graphpass.running import open_session
from graphpass_runtime.errors import ModelError
from graphpass_runtime.evaluation import answering
from graphpass_runtime.metadata import Stage
from graphpass_runtime.neuron import Neuron
from graphpass_runtime.output_error import aligned, energy, squared_error

_KIND = "close network, judged by accuracy"


@dataclass
class LayerAgreement:
    """How close a layer's counts are to the reference's.

    Attributes:
        name: of the neurons.
        counts: how many were compared.
        differ: how many are not the same.
        differ_by_more: how many are more than one spike apart.
        total: sum of the absolute differences, in spikes.
        largest: largest absolute difference, in spikes.
    """

    name: str
    counts: int = 0
    differ: int = 0
    differ_by_more: int = 0
    total: int = 0
    largest: int = 0

    def add(self, expected: Counts, found: Counts) -> None:
        """Compare a batch."""
        apart = np.abs(expected - found)
        self.counts += apart.size
        self.differ += int((apart > 0).sum())
        self.differ_by_more += int((apart > 1).sum())
        self.total += int(apart.sum())
        self.largest = max(self.largest, int(apart.max(initial=0)))

    def to_json(self) -> dict[str, Any]:
        """Shares of the counts that were compared, and spikes."""
        count = max(1, self.counts)
        return {
            "name": self.name,
            "counts": self.counts,
            "differ": self.differ / count,
            "differ_by_more_than_one": self.differ_by_more / count,
            "mean_abs_diff": self.total / count,
            "max_abs_diff": self.largest,
        }


@dataclass
class QuantisedVerification:
    """Result of a comparison with form `int8`.

    Attributes:
        samples: how many were compared.
        layers: spiking layers.
        integer_layers: layers with integer weights.
        levels_compared: roundings to uint8, over all samples and tensors.
        level_near_tie: levels that differ from the integers', one apart, at a near tie.
        level_wrong: levels that differ and are not.
        wrong: per tensor with such levels, how many.
        output_error: largest difference of an output from what the integers say, as a
            share of the largest output.
        changed: tensors and nodes that differ from those that the reference rounds to;
            None when the reference is a form, which does not say.
        agreement: per spiking layer, how close its counts are to the reference's.
        argmax_agreement: share of samples with the same largest output (`answering`).
        output_relative_error: ``||y - y_ref|| / ||y_ref||`` over all float outputs.
    """

    samples: int = 0
    layers: int = 0
    integer_layers: int = 0
    levels_compared: int = 0
    level_near_tie: int = 0
    level_wrong: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    output_error: float = 0.0
    changed: tuple[str, ...] | None = None
    agreement: tuple[LayerAgreement, ...] = ()
    argmax_agreement: float = 0.0
    output_relative_error: float = 0.0

    @property
    def equal(self) -> bool:
        """Does the file compute what its integers say, and are they the right ones?"""
        return self.level_wrong == 0 and self.output_error <= NEAR_LEVEL and not self.changed

    def measures(self) -> dict[str, Any]:
        """Plain JSON values but for the layers."""
        return {
            "kind": _KIND,
            "samples": self.samples,
            "layers": self.layers,
            "integer_layers": self.integer_layers,
            "levels_compared": self.levels_compared,
            "level_near_tie": self.level_near_tie,
            "level_wrong": self.level_wrong,
            "output_error": self.output_error,
            "integers_changed": None if self.changed is None else len(self.changed),
            "argmax_agreement": self.argmax_agreement,
            "output_relative_error": self.output_relative_error,
            "equal": self.equal,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.measures() | {
            "wrong": self.wrong,
            "changed": None if self.changed is None else list(self.changed),
            "agreement": [layer.to_json() for layer in self.agreement],
        }


class QuantisedComparison:
    """An `int8` file beside its exact integers and beside the network that it rounds.

    Args:
        wanted: the reference; it is changed.
        candidate: the file; it is changed.
        options: `provider` and `threads` of the sessions.

    Raises:
        ModelError: the file's quantisation is not of the kind that graphpass writes.
    """

    def __init__(self, wanted: Model, candidate: Model, options: Mapping[str, Any]) -> None:
        assert wanted.record is not None, "both files have neurons"
        assert candidate.record is not None, "both files have neurons"
        self._neurons = candidate.record.neurons
        self._where = candidate.name
        changed = changed_integers(wanted, candidate)
        exact = copied(candidate)
        self._exact = IntegerReference(exact, options["threads"])
        tensors = candidate.graph.tensors()
        pools = {neuron.population: neuron.pools for neuron in wanted.record.neurons}
        self._shown = {
            n.name: pooled_spikes(candidate, n, tensors, pools[n.name][len(n.pools) :])
            for n in self._neurons
        }
        self._outputs = [output.name for output in candidate.graph.outputs]
        candidate.graph.toposort()
        held = [rounding.held for rounding in self._exact.roundings]
        self._session = open_session(
            to_proto(candidate),
            extra_outputs=[*held, *self._shown.values()],
            **options,
            memory_limit=1 << 62,
        )
        self.reference = Instrumented(wanted, candidate.record, options)
        self._agreement = {n.name: LayerAgreement(n.name) for n in self._neurons}
        self._same, self._error, self._norm = 0, 0.0, 0.0  # the last two squared
        self.result = QuantisedVerification(
            layers=len(self._neurons),
            integer_layers=self._exact.layers,
            changed=changed,
            agreement=tuple(self._agreement.values()),
        )

    @np.errstate(over="ignore", invalid="ignore")  # outputs that are not finite
    def add(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """Compare a batch; returns its number of samples."""
        found = self._session.run(feeds)
        outputs = [found[name] for name in self._outputs]
        self._judge(feeds, found, outputs)
        expected = self.reference.read(feeds)
        for neuron in self._neurons:
            counts = _counts(neuron, found[self._shown[neuron.name]])
            if counts.shape != expected.counts[neuron.name].shape:
                raise ModelError(
                    f"neuron '{neuron.name}' has another size than in the reference",
                    where=self._where,
                    remedy="give the files of one conversion",
                )
            self._agreement[neuron.name].add(expected.counts[neuron.name], counts)
        size = count(feeds)
        self._compare_outputs(expected.outputs, outputs, size)
        return size

    def _judge(
        self,
        feeds: Mapping[str, NDArray[Any]],
        found: Mapping[str, NDArray[Any]],
        outputs: list[NDArray[Any]],
    ) -> None:
        """Every rounding, and the outputs, against the integers."""
        result = self.result
        reals, exact = self._exact.run(feeds, found)
        for rounding in self._exact.roundings:
            held = found[rounding.held]
            near, wrong = rounding.judge(reals[rounding.held], held)
            result.levels_compared += held.size
            result.level_near_tie += near
            result.level_wrong += wrong
            if wrong:
                result.wrong[rounding.held] = result.wrong.get(rounding.held, 0) + wrong
        for own, other in map(aligned, outputs, exact):
            if own.size and own.dtype.kind == "f":
                scale = float(np.abs(other).max()) or 1.0
                error = float(np.abs(own - other).max()) / scale
                result.output_error = max(result.output_error, error)

    def _compare_outputs(
        self, expected: list[NDArray[Any]], found: list[NDArray[Any]], size: int
    ) -> None:
        result = self.result
        if not self.reference.comparable(expected, found):
            raise ModelError("has outputs of other shapes than the reference", where=self._where)
        for want, got in zip(expected, found, strict=True):
            if want.dtype.kind == "f":
                self._error += squared_error(got, want)
                self._norm += energy(want)
        self._same += agreeing(expected, found, size)
        result.samples += size
        result.argmax_agreement = self._same / max(1, result.samples)
        result.output_relative_error = float(np.sqrt(self._error / (self._norm or 1.0)))


def agreeing(expected: list[NDArray[Any]], found: list[NDArray[Any]], size: int) -> int:
    """Samples with the same argmax; all or none when the output has no batch axis.

    Args:
        expected: the outputs of one network; see `answering`.
        found: of the other.
        size: the number of samples.
    """
    answer = answering(expected)
    first, second = expected[answer], found[answer]
    if first.shape != second.shape:
        return 0
    if not first.size:
        return size
    rows = size if first.shape[:1] == (size,) else 1
    same = first.reshape(rows, -1).argmax(axis=1) == second.reshape(rows, -1).argmax(axis=1)
    return int(np.broadcast_to(same, size).sum())


def changed_integers(wanted: Model, candidate: Model) -> tuple[str, ...] | None:
    """Names of what differs from the rounding of a stage file; None for a form.

    Args:
        wanted: the reference, from stage 2 on.
        candidate: an `int8` file.
    """
    record, own = wanted.record, candidate.record
    assert record is not None, "it has neurons"
    assert own is not None, "it has neurons"
    if record.stage is Stage.SPIKING or own.form is None:
        return None
    again = copied(wanted)
    again.note(ranges=record.ranges or own.ranges, means=record.means or own.means)
    infer_shapes(again)
    stages.emit(again, own.form)
    expected, found = _parts(to_proto(again).graph), _parts(to_proto(candidate).graph)
    names = [*expected, *(name for name in found if name not in expected)]
    return tuple(name for name in names if expected.get(name) != found.get(name))


def _parts(graph: onnx.GraphProto) -> dict[str, bytes]:
    """Nodes, each by its first output, and weights by name, as bytes."""
    parts = {}
    for node in graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        bare.ClearField("doc_string")
        del bare.metadata_props[:]
        parts[node.output[0]] = bare.SerializeToString(deterministic=True)
    for weight in graph.initializer:
        parts[weight.name] = _content(weight)
    return parts


def _content(weight: onnx.TensorProto) -> bytes:
    array = large_weights.array_of(weight)
    return f"{weight.data_type} {array.shape} ".encode() + array.tobytes()


def _counts(neuron: Neuron, spikes: NDArray[Any]) -> Counts:
    return np.moveaxis(spikes, neuron.batch_axis, 0).astype(np.int32)
