"""Diagnosing the neurons of an ANN, before or after they are written down as an SNN."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphpass.calibration.measuring import Progress, count
from graphpass.diagnosis import report
from graphpass.diagnosis.noise import Firing, Noise
from graphpass.diagnosis.report import Diagnosis
from graphpass.diagnosis.substitution import Feeds, Substitution, View
from graphpass_runtime.data import Dataset
from graphpass_runtime.output_error import energy, squared_error

#: The spike counts of the finished file, by neuron, when they are to be judged instead.
Counts = Mapping[str, NDArray[np.int32]]
ReadCounts = Callable[[Feeds, Mapping[str, View]], Counts]


@dataclass
class OutputErrors:
    """Squared errors of half-converted networks' outputs, against the ANN's.

    Attributes:
        energy: sum of squares of the ANN's outputs.
        errors: one for each set of neurons that spike.
        samples: how many were run.
    """

    energy: float
    errors: list[float]
    samples: int

    def relative(self, index: int) -> float | None:
        """``||y - y_ann|| / ||y_ann||`` of one of them; None where it is not finite."""
        share = self.errors[index] / self.energy if self.energy else math.nan
        return math.sqrt(share) if math.isfinite(share) else None


def output_errors(
    net: Substitution,
    data: Dataset,
    spiking: Sequence[Sequence[str]],
    advance: Callable[[int], None],
) -> OutputErrors:
    """Run the data through the ANN and through networks with these neurons switched on."""
    result = OutputErrors(0.0, [0.0] * len(spiking), 0)
    for batch in data.batches(net.batch):
        wanted = net.run(batch.feeds, ())
        result.energy += sum(map(energy, wanted))
        for index, names in enumerate(spiking):
            found = net.run(batch.feeds, names)
            with np.errstate(over="ignore", invalid="ignore"):  # outputs that are not finite
                result.errors[index] += sum(
                    squared_error(own, y) for own, y in zip(found, wanted, strict=True)
                )
        result.samples += count(batch.feeds)
        advance(count(batch.feeds))
    return result


def survey(
    net: Substitution,
    data: Dataset,
    *,
    read_counts: ReadCounts | None = None,
    progress: Progress = lambda _title, _samples: lambda _done: None,
) -> Diagnosis:
    """Diagnose all neurons.

    Shares of the output's error are measured by cumulative substitution: H_l is the network
    whose first l neurons spike, E_l the squared error of its outputs against the ANN's, and
    what neuron l adds is E_l - E_(l-1). Shares sum to 1, and can be negative. (With fewer
    networks, sharing out what several neurons add by their own errors, the result was hardly
    better than chance on a residual network of 54 neurons. Fewer samples, all networks, are
    the better bargain.)

    Args:
        net: the ANN with its neurons.
        data: samples that can be read again and again; labels are not used.
        read_counts: gives the spike counts of a batch, for a finished file whose own are
            judged; by default those of the net.
        progress: as for `graphpass.convert`.
    """
    names = list(net.neurons)
    firing = {name: Firing(neuron.levels) for name, neuron in net.neurons.items()}
    noise = {name: Noise() for name in names}
    advance = progress("diagnosis: looking at every layer", data.samples)
    for batch in data.batches(net.small_batch):
        ann, snn = net.look(batch.feeds, ()), net.look(batch.feeds, names)
        counts = None if read_counts is None else read_counts(batch.feeds, snn)
        for name, neuron in net.neurons.items():
            noise[name].add(ann[name], snn[name], neuron.levels)
            firing[name].add(snn[name].counts if counts is None else counts[name])
        advance(count(batch.feeds))

    title = f"diagnosis: {len(names)} half-converted networks"
    halves = [names[:end] for end in range(1, len(names) + 1)]
    outputs = output_errors(net, data, halves, progress(title, data.samples))
    total = outputs.errors[-1]
    added = np.diff(outputs.errors, prepend=0.0)
    shares = added / total if math.isfinite(total) and total > 0.0 else [None] * len(names)
    layers = [
        report.layer(name, firing[name], noise[name], None if share is None else float(share))
        for name, share in zip(names, shares, strict=True)
    ]
    return Diagnosis(
        outputs.samples,
        outputs.relative(-1),
        None,
        report.by_damage(layers),
        passes=len(names) + 3,
    )
