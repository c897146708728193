"""How good a network is, and how close to another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.data import Dataset
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.feeds import Array, TensorSpec
from graphpass_runtime.output_error import energy, squared_error
from graphpass_runtime.session import Session

_TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. Shares are between 0 and 1.

    Attributes:
        samples: how many samples were run.
        provider: what they ran on, ``cpu`` or ``cuda``.
        accuracy: share of right answers; None without labels.
        accuracy_stderr: its standard error, ``sqrt(p (1 - p) / n)``.
        top5: share of samples whose label is among the five best; None without
            labels or with fewer than five classes. Ties go to the lower index.
        agreement: share of samples with the same answer as the reference; None
            without one, with one class, or where the size of the output hangs on
            its values.
        output_relative_error: ``||y - y_ref|| / ||y_ref||`` over all outputs and
            samples; None without a reference, or where it has no finite value.
    """

    samples: int
    provider: str
    accuracy: float | None = None
    accuracy_stderr: float | None = None
    top5: float | None = None
    agreement: float | None = None
    output_relative_error: float | None = None
    compared: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the comparison only where there was a reference."""
        values: dict[str, Any] = {
            "samples": self.samples,
            "accuracy": self.accuracy,
            "accuracy_stderr": self.accuracy_stderr,
            "top5": self.top5,
            "provider": self.provider,
        }
        if self.compared:
            values["agreement"] = self.agreement
            values["output_relative_error"] = self.output_relative_error
        return values


def evaluate(
    session: Session,
    data: Dataset,
    *,
    batch: int = 100,
    reference: Session | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run a network over a data set; the answer is the argmax of one output (`answering`).

    Args:
        session: the network.
        data: what to run it on.
        batch: samples per batch.
        reference: a network with the same inputs and outputs to compare with.
        progress: called after every batch with its number of samples.

    Raises:
        DataError: data that does not fit, labels that are no class of the network,
            or a reference whose outputs are not comparable.
        ModelError: the network fails, or gives NaN.
    """
    tally = _Tally(session, reference)
    literal = session.batch or (reference.batch if reference is not None else None)
    for part in data.batches(literal or batch):  # outputs may have no axis to join pieces on
        outputs, count = tally.outputs_of(session, part.feeds), session.samples_in(part.feeds)
        if part.labels is not None:
            tally.add_labelled(outputs, part.labels)
        if reference is not None:
            tally.add_reference(outputs, tally.outputs_of(reference, part.feeds), count)
        tally.samples += count
        if progress is not None:
            progress(count)
    return tally.result(data.labelled)


class _Tally:
    """Running sums of an evaluation, so that no output outlives its batch."""

    def __init__(self, session: Session, reference: Session | None) -> None:
        self._session = session
        self._reference = reference
        if reference is not None and len(reference.outputs) != len(session.outputs):
            raise DataError(
                f"the reference has {len(reference.outputs)} outputs, "
                f"the network {len(session.outputs)}",
                remedy="compare a network with the ANN that it came from",
            )
        self.samples = 0
        self._answer = answering(session.outputs)
        self._classes = 0
        self._right = self._in_top = self._same = 0
        self._answers = True
        self._error = self._norm = 0.0  # squared

    def outputs_of(self, session: Session, feeds: dict[str, Array]) -> list[Array]:
        """All outputs for a batch, in the order of the file.

        Raises:
            ModelError: one holds NaN.
        """
        results = session.run(feeds)
        outputs = [results[spec.name] for spec in session.outputs]
        for spec, output in zip(session.outputs, outputs, strict=True):
            if output.dtype.kind == "f" and np.isnan(output).any():
                raise ModelError(
                    f"output {spec.name!r} holds NaN",
                    where=session.where,
                    remedy="check the preprocessing, then the network",
                )
        return outputs

    def add_labelled(self, outputs: list[Array], labels: NDArray[np.int64]) -> None:
        """Count right answers."""
        output = outputs[self._answer]
        scores = _scores(output)
        count, classes = scores.shape
        if count != len(labels) or max(output.shape[1:], default=1) != classes:
            raise DataError(
                f"output {self._session.outputs[self._answer].name!r} of shape {output.shape} "
                f"has no class scores for {len(labels)} labels",
                remedy="evaluate a classifier, or data without labels",
            )
        if labels.min() < 0 or labels.max() >= classes:
            worst = labels.min() if labels.min() < 0 else labels.max()
            raise DataError(
                f"label {worst} is not one of the {classes} classes 0 to {classes - 1}",
                remedy="check the labels and the label_offset of the preprocessing",
            )
        self._classes = classes
        of_label = scores[np.arange(count), labels][:, None]
        earlier = np.arange(classes) < labels[:, None]
        # How many classes are ranked before the label, ties in order of index: the
        # rank 0 is argmax.
        rank = ((scores > of_label) | ((scores == of_label) & earlier)).sum(axis=1)
        self._right += int((rank == 0).sum())
        self._in_top += int((rank < _TOP).sum())

    def add_reference(self, outputs: list[Array], wanted: list[Array], count: int) -> None:
        """Compare with the reference's outputs for the same batch."""
        for got, want in zip(outputs, wanted, strict=True):
            if got.ndim != want.ndim:
                raise DataError(
                    f"an output of shape {got.shape} has shape {want.shape} in the reference",
                    remedy="compare a network with the ANN that it came from",
                )
            self._error += squared_error(got, want)
            self._norm += energy(want)
        # As many boxes as a detector finds are no scores of classes.
        found, expected = outputs[self._answer], wanted[self._answer]
        self._answers &= found.shape == expected.shape and found.shape[:1] == (count,)
        if not self._answers:
            return
        ours, theirs = _scores(found), _scores(expected)
        self._classes = ours.shape[1]
        self._same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())

    def result(self, labelled: bool) -> Evaluation:
        """The measures, from the sums."""
        if not self.samples:
            raise DataError("there are no samples to evaluate", remedy="check the data")
        share = self._right / self.samples
        compared, answers = self._reference is not None, self._answers and self._classes > 1
        error = math.sqrt(self._error / self._norm) if self._norm else math.nan
        return Evaluation(
            samples=self.samples,
            provider=self._session.provider,
            accuracy=share if labelled else None,
            accuracy_stderr=math.sqrt(share * (1 - share) / self.samples) if labelled else None,
            top5=self._in_top / self.samples if labelled and self._classes >= _TOP else None,
            agreement=self._same / self.samples if compared and answers else None,
            output_relative_error=error if compared and math.isfinite(error) else None,
            compared=compared,
        )


def answering(outputs: Sequence[TensorSpec | Array]) -> int:
    """Which output's argmax is the answer: the first that holds floats, else the first.

    Classifiers of scikit-learn give the label, an integer, before the scores.
    """
    return next((i for i, output in enumerate(outputs) if output.dtype.kind == "f"), 0)


def _scores(output: Array) -> Array:
    """An output as ``[N, K]``.

    Raises:
        DataError: it has no values.
    """
    if not output.size:
        raise DataError(f"the output is empty, of shape {output.shape}")
    return output.reshape(len(output), -1) if output.ndim else output.reshape(1, 1)
