"""Diagnosing two files: an ANN and the SNN that was made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from graphpass import populations, running
from graphpass.calibration.measuring import Progress, count
from graphpass.diagnosis import report
from graphpass.diagnosis.noise import Firing
from graphpass.diagnosis.report import Diagnosis
from graphpass.diagnosis.substitution import Feeds, Substitution, View, load_ann
from graphpass.diagnosis.survey import Counts, survey
from graphpass.forms import FORMS
from graphpass.model import check_before_running
from graphpass_runtime.data import Dataset
from graphpass_runtime.errors import ModelError
from graphpass_runtime.evaluation import evaluate
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.model_data import Data, PathLike, open_model_data
from graphpass_runtime.neuron import Carrier
from graphpass_runtime.preprocess import Preprocess
from graphpass_runtime.session import Session

DEFAULT_SAMPLES = 32
_BATCH = 8
_TIES = 0.01  # share of counts of an early layer that rounding may explain


def diagnose(
    ann: PathLike,
    snn: PathLike,
    data: Data,
    *,
    samples: int | None = DEFAULT_SAMPLES,
    preprocess: Preprocess | None = None,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda _title, _samples: lambda _done: None,
) -> Diagnosis:
    """Say which layer of an SNN lost what.

    Output error, agreement and firing are those of the file. Errors and shares of the layers
    are measured on the DA-QCFS network that the ANN and the neurons of the file make, which
    is the same network as every exact form.

    Args:
        ann: the ANN.
        snn: the SNN in any form, or a stage file from stage 2 on.
        data: see `graphpass_runtime.data.open_data`; labels are not used.
        samples: use this many, spread evenly.
        preprocess: how images become inputs; by default what the files say.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: threads for each side.
        progress: as for `graphpass.convert`.

    Raises:
        ModelError: the SNN has no neurons, or was not made from this ANN.
        DataError: data that does not fit.
    """
    for path in (snn, ann):
        check_before_running(path)
    open_session = partial(Session, provider=provider, threads=threads)
    session = open_session(snn)
    record = session.record
    if record is None or not record.neurons:
        raise ModelError(
            "has no spiking neurons", where=session.where, remedy="run graphpass convert on it"
        )
    model = load_ann(ann)
    source = open_model_data(
        data, session.inputs, [(snn, record), (ann, model.record)], preprocess, samples
    )
    advance = progress("diagnosis: comparing outputs", source.samples)
    whole = evaluate(session, source, batch=_BATCH, reference=open_session(ann), progress=advance)
    missing = why_no_layers(record)
    if missing:
        result = _firing_alone(session, record, source)
    else:
        net = Substitution(
            model, record.neurons, partial(running.open_session, provider=provider, threads=threads)
        )
        reader = _Reader(session, record, model.name)
        result = survey(net, source, read_counts=reader, progress=progress)
    return replace(
        result,
        samples=whole.samples,
        output_error=whole.output_relative_error,
        agreement=whole.agreement,
        note=missing or _caveat(record),
    )


class _Reader:
    """The spike counts of the file, checked against those of the network that is rebuilt."""

    def __init__(self, session: Session, record: FileRecord, ann: str) -> None:
        self._session = session
        # Early neurons see the same currents but for rounding; pooled ones are fewer than here.
        self._neurons = record.neurons
        comparable = [n for n in populations.joined(record.neurons) if not n.pools]
        self._first = comparable[0] if comparable and not _caveat(record) else None
        self._ann = ann

    def __call__(self, feeds: Feeds, views: Mapping[str, View]) -> Counts:
        counts = populations.joined_counts(self._neurons, self._session.spike_counts(feeds))
        if self._first is not None:
            own = counts[self._first.name]
            rebuilt = np.moveaxis(views[self._first.name].counts, self._first.batch_axis, 0)
            if own.shape != rebuilt.shape or np.mean(own != rebuilt) > _TIES:
                raise ModelError(
                    "fires otherwise than neurons on this ANN's currents do",
                    where=self._session.where,
                    remedy=f"is {self._ann} the ANN that it was converted from?",
                )
        return counts


def why_no_layers(record: FileRecord) -> str:
    """Why errors of single layers cannot be measured; empty when they can."""
    if record.calibration.get("rule") == "finetune":
        return "its weights are not the ANN's (finetune): no errors of single layers"
    if any(neuron.carrier is Carrier.SERIAL for neuron in record.neurons):
        return "serial neurons fire by the order of their spikes: no errors of single layers"
    return ""


def _caveat(record: FileRecord) -> str:
    """What the file differs in from the network that errors are measured on."""
    form = FORMS.get(record.form or "")
    if (form is not None and not form.same) or record.precision is not None:
        name = record.precision or record.form
        return f"errors of single layers are those of the float32 network, not of {name}"
    return ""


def _firing_alone(session: Session, record: FileRecord, data: Dataset) -> Diagnosis:
    layers = populations.joined(record.neurons)
    firing = {neuron.name: Firing(neuron.levels) for neuron in layers}
    seen = 0
    if record.form == "scan":  # keeps its spikes inside
        return Diagnosis(0, None, None, tuple(report.layer(n, None) for n in firing))
    for batch in data.batches(_BATCH):
        counts = populations.joined_counts(record.neurons, session.spike_counts(batch.feeds))
        for name, each in counts.items():
            firing[name].add(each)
        seen += count(batch.feeds)
    found = [report.layer(name, each) for name, each in firing.items()]
    return Diagnosis(seen, None, None, tuple(found))
