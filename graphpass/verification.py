"""Is it the same network? Spike counts of two files, compared layer by layer.

Float32 sums are not associative, and the optimiser fuses two files differently, so
that a membrane potential at a threshold may fall on either side of it. Therefore each
sample is followed to the first layer where its counts differ: those counts are
origins, and must be near ties, or no further from one than rounding carries the potential
(`rounding_reach`). What differs later in that sample is downstream of an origin, reported
and not judged. Equal means: no other origin.

A form that rounds weights is another network, compared in `quantised_verification`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing, populations, stages
from graphpass.calibration.measuring import Progress, count
from graphpass.consistency import activation_of, check_stage_file
from graphpass.instrument import (
    Instrumented,
    Reading,
    is_close,
    neurons_record,
    spiking_record,
)
from graphpass.model import Model, load
from graphpass.neurons import Carrier, Neuron, daqcfs
from graphpass.passes.bound_functions import bound_for
from graphpass.passes.spread_skips import spread_for
from graphpass.quantised_verification import (
    QuantisedComparison,
    QuantisedVerification,
    agreeing,
)
from graphpass.rounding_reach import RoundingReach
from graphpass_runtime.errors import ModelError, OptionError
from graphpass_runtime.metadata import FileRecord, Stage
from graphpass_runtime.model_data import Data, PathLike, open_model_data
from graphpass_runtime.output_error import aligned
from graphpass_runtime.preprocess import Preprocess

NEAR = 2.0**-16  # a potential this close to an integer, relatively, is a near tie
_ELEMENTS = 1 << 27  # float32 values that both sides may hold at once
_LARGEST_BATCH = 100


@dataclass
class Verification:
    """Result of a comparison.

    Attributes:
        samples: how many were compared.
        layers: spiking layers.
        counts_compared: spike counts over all samples and layers.
        origin_near_tie: counts that differ first in their sample, at a near tie.
        origin_within_rounding: counts that differ first in their sample, further from a tie,
            but not further than rounding moves the reference's own potential.
        origin_unexplained: other counts that differ first in their sample.
        downstream: counts that differ in a layer behind an origin.
        samples_diverged: samples with an origin.
        max_abs_diff: largest difference of an output; infinite where one side's is not finite.
        argmax_agreement: share of samples with the same largest output (`answering`).
        origins: per layer with origins, (explained, unexplained).
    """

    samples: int = 0
    layers: int = 0
    counts_compared: int = 0
    origin_near_tie: int = 0
    origin_within_rounding: int = 0
    origin_unexplained: int = 0
    downstream: int = 0
    samples_diverged: int = 0
    max_abs_diff: float = 0.0
    argmax_agreement: float = 0.0
    origins: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Is every origin explained?"""
        return self.origin_unexplained == 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; None for an infinite difference, which JSON does not have."""
        names = [name for name in self.__dataclass_fields__ if name != "origins"]
        values = {name: getattr(self, name) for name in names} | {"equal": self.equal}
        if not math.isfinite(self.max_abs_diff):
            values["max_abs_diff"] = None
        return values


def verify(
    reference: PathLike,
    snn: PathLike,
    data: Data,
    *,
    samples: int | None = None,
    strict: bool = False,
    preprocess: Preprocess | None = None,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda _title, _samples: lambda _done: None,
) -> Verification | QuantisedVerification:
    """Compare the spike counts of an SNN with those of its reference.

    Args:
        reference: a DA-QCFS stage file, another form of the SNN, a QCFS ANN whose levels
            are the SNN's T, or the ANN itself (DA-QCFS is then rebuilt from what the
            SNN says about its neurons), unless its weights were finetuned.
        snn: the SNN, or a DA-QCFS stage file. One of form `int8` is a close network: it
            is compared with its own integers, and how close it is to the reference is
            reported.
        data: see `graphpass_runtime.data.open_data`.
        samples: use this many, spread evenly.
        strict: feed every layer of the SNN the reference's counts, so that each layer is
            judged alone and nothing is downstream.
        preprocess: how images become inputs; by default what the files say.
        provider: ``auto``, ``cpu`` or ``cuda`` (with TF32 off).
        threads: threads for each side.
        progress: as for `graphpass.convert`.

    Raises:
        ModelError: the SNN has no neurons, or was not made from this reference.
        DataError: data that does not fit.
        OptionError: strict, for form `int8`, whose layers are always judged alone.
    """
    candidate = load(snn)
    check_stage_file(candidate)
    record = neurons_record(candidate)
    wanted = _reference_model(reference, record)
    options = {"provider": provider, "threads": threads}
    if is_close(record):
        if strict:
            raise OptionError(
                f"form '{record.form}' has no strict mode: its layers are always judged alone",
                remedy="leave --strict out",
            )
        close = QuantisedComparison(wanted, candidate, options)
        given = [(snn, record), (reference, None)]
        source = open_model_data(data, close.reference.session.inputs, given, preprocess, samples)
        advance = progress("comparing", source.samples)
        for batch in source.batches(close.reference.session.batch or _batch_size(record)):
            advance(close.add(batch.feeds))
        return close.result
    left = Instrumented(wanted, record, options)
    right = Instrumented(candidate, spiking_record(wanted), options)
    if strict:
        right.check_unpooled()
    rounding = RoundingReach(partial(_reference_model, reference, record), record, options)
    source = open_model_data(
        data, left.session.inputs, [(snn, record), (reference, None)], preprocess, samples
    )
    layers = populations.joined(record.neurons)
    result = Verification(layers=len(layers))
    advance = progress("comparing", source.samples)
    agreed = 0
    for batch in source.batches(left.session.batch or _batch_size(record)):
        expected = left.read(batch.feeds)
        fed = right.replay(expected.counts) if strict else {}
        found = right.read({**batch.feeds, **fed})
        alike = left.comparable(expected.outputs, found.outputs)
        if not alike or expected.shapes() != found.shapes():
            raise ModelError(
                "has layers or outputs of other shapes than the reference",
                where=candidate.name,
                remedy="give the files of one conversion",
            )
        size = _samples(batch.feeds, expected)
        reach = cache(partial(rounding.measure, batch.feeds, expected))
        _compare(result, layers, expected, found, size, reach, strict=strict)
        agreed += _compare_outputs(result, expected, found, size)
        result.samples += size
        advance(size)
    result.argmax_agreement = agreed / max(1, result.samples)
    return result


def _batch_size(record: FileRecord) -> int:
    peak = record.peak_elements or 1 << 20
    return max(1, min(_LARGEST_BATCH, _ELEMENTS // (8 * peak)))


def _reference_model(path: PathLike, record: FileRecord) -> Model:
    model = load(path)
    check_stage_file(model)
    stage = model.record.stage if model.record else None
    if stage in (Stage.DAQCFS, Stage.CALIBRATED, Stage.SPIKING):
        _check_same_neurons(model, record)
        return model
    if record.calibration.get("rule") == "finetune":
        raise ModelError(
            "is no reference for an SNN whose weights were finetuned",
            where=model.name,
            remedy="give 3-calibrated.onnx of --stages, or another form of the SNN",
        )
    if stage is None:
        dropped = any(verdict.get("status") == "dropped" for verdict in record.activations)
        stages.normalise(model, rounded_currents="drop" if dropped else "spike")
    return _rebuilt(model, record)


def _check_same_neurons(model: Model, record: FileRecord) -> None:
    own = {n.name: n.levels for n in populations.joined(spiking_record(model).neurons)}
    if own != {n.name: n.levels for n in populations.joined(record.neurons)}:
        raise ModelError(
            "has other neurons, or another T, than the SNN",
            where=model.name,
            remedy="give a stage file of the same conversion",
        )


def _rebuilt(model: Model, record: FileRecord) -> Model:
    """DA-QCFS from the ANN and the SNN's record.

    Where every activation is a QCFS at its own levels, each keeps its own: nothing had to be
    calibrated, and what the record says must not count.
    """
    layers = populations.joined(record.neurons)
    bound_for(model, layers)
    spread_for(model, layers)
    nodes = {neuron.name: activation_of(model, neuron) for neuron in layers}
    neurons = [replace(neuron, carrier=Carrier.COUNT, pools=()) for neuron in layers]
    if all(_is_at_own_levels(nodes[neuron.name], neuron) for neuron in neurons):
        neurons = [_own_quantisation(nodes[neuron.name], neuron) for neuron in neurons]
    for neuron in neurons:
        daqcfs.build(model, nodes[neuron.name], neuron)
    editing.tidy(model)
    model.note(neurons=tuple(neurons), steps=record.steps, stage=Stage.CALIBRATED)
    return model


def _is_at_own_levels(node: gs.Node, neuron: Neuron) -> bool:
    if not editing.is_dialect(node, dialect.QCFS):
        return False
    known = np.asarray(editing.values(node.inputs[1])).size in (1, neuron.channels)
    return known and editing.scalar(node.inputs[2]) == neuron.levels


def _own_quantisation(node: gs.Node, neuron: Neuron) -> Neuron:
    theta = np.asarray(editing.values(node.inputs[1]), np.float32).ravel()
    theta = np.broadcast_to(theta, neuron.threshold.shape).copy()
    return replace(
        neuron,
        threshold=theta,
        shift=np.zeros_like(theta),
        amplitude=(theta / np.float32(neuron.levels)).astype(np.float32),
    )


def _compare(
    result: Verification,
    neurons: Iterable[Neuron],
    expected: Reading,
    found: Reading,
    size: int,
    reach: Callable[[], Mapping[str, NDArray[np.float32]]],
    *,
    strict: bool,
) -> None:
    diverged = np.zeros(size, bool)
    for neuron in neurons:
        name = neuron.name
        differs = (expected.counts[name] != found.counts[name]).reshape(size, -1)
        result.counts_compared += differs.size
        judged = differs if strict else differs & ~diverged[:, None]
        u = expected.potentials[name].reshape(size, -1)[judged].astype(np.float64)
        scale = np.maximum(np.maximum(1.0, np.abs(u)), _cancelled(neuron, expected, size)[judged])
        apart = np.abs(expected.counts[name] - found.counts[name]).reshape(size, -1)[judged]
        # At a tie two counts are possible, next to each other.
        with np.errstate(invalid="ignore"):  # a potential that is not finite is near no tie
            distance = np.abs(u - np.rint(u))
            near = (distance <= NEAR * scale) & (apart == 1)
            rounded = np.zeros_like(near)
            if not near.all():
                moved = reach()[name].reshape(size, -1)[judged]
                rounded = (distance <= moved) & (apart == 1) & ~near
        ties, within, total = int(near.sum()), int(rounded.sum()), near.size
        result.origin_near_tie += ties
        result.origin_within_rounding += within
        result.origin_unexplained += total - ties - within
        result.downstream += int(differs.sum()) - total
        if total:
            explained, unexplained = result.origins.get(name, (0, 0))
            explained += ties + within
            result.origins[name] = (explained, unexplained + total - ties - within)
        diverged |= differs.any(axis=1)
    result.samples_diverged += int(diverged.sum())


def _cancelled(neuron: Neuron, expected: Reading, size: int) -> NDArray[np.float64]:
    """How large a potential was before a baseline was taken away, ``[N, -1]``: it is as exact."""
    shape = list(expected.potentials[neuron.name].shape)
    if neuron.baseline is None:
        return np.zeros((size, math.prod(shape) // size))
    share = neuron.levels * (1.0 + np.abs(neuron.baseline.astype(np.float64)) / neuron.threshold)
    if (axis := neuron.channel_axis) is not None:  # the batch was moved to the front
        axis += axis < neuron.batch_axis
        share = share.reshape(-1, *[1] * (len(shape) - 1 - axis))
    return np.broadcast_to(share, shape).reshape(size, -1)


def _samples(feeds: Mapping[str, NDArray[Any]], reading: Reading) -> int:
    """Samples of a batch. A neuron may have several rows for each, merged into its batch axis."""
    size = count(feeds)
    apart = all(len(counts) % size == 0 for counts in reading.counts.values())
    return size if apart else 1


def _compare_outputs(result: Verification, expected: Reading, found: Reading, size: int) -> int:
    """Note the largest difference; the number of samples with the same argmax."""
    for a, b in map(aligned, expected.outputs, found.outputs):
        if a.size and a.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
            largest = float(np.where(np.isnan(apart), np.inf, apart).max())
            result.max_abs_diff = max(result.max_abs_diff, largest)
    return agreeing(expected.outputs, found.outputs, size)
