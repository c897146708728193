"""What every measurement needs: data, and a way to run a graph on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from graphpass.running import OpenSession
from graphpass_runtime.data import Dataset

Advance = Callable[[int], None]  # told the number of samples after each batch
Progress = Callable[[str, int | None], Advance]  # told what starts, and its number of samples


@dataclass(frozen=True)
class Training:
    """How a rule that learns goes about it.

    Attributes:
        epochs: how often it goes through the data at most.
        seed: of its random numbers.
        threads: None for one per core.
    """

    epochs: int
    seed: int
    threads: int | None


@dataclass(frozen=True)
class Measuring:
    """How to measure.

    Attributes:
        data: calibration data; labels are not used.
        batch: samples per batch.
        passes: how often a rule that depends on it goes through the data.
        open_session: runs a graph, as `graphpass.running.open_session`.
        progress: told that a pass starts; what it returns is told the samples of each batch.
        training: for a rule that learns.
        batch_fixed: no batch may be smaller, the file says.
    """

    data: Dataset
    batch: int
    passes: int
    open_session: OpenSession
    progress: Progress
    training: Training
    batch_fixed: bool = False

    def batches(self, title: str, passes: int = 1) -> Iterator[dict[str, NDArray[Any]]]:
        """The feeds of every batch, so many times over, with the progress told."""
        samples = self.data.samples
        advance = self.progress(title, None if samples is None else samples * passes)
        for _ in range(passes):
            for step in self.data.batches(self.batch):
                yield step.feeds
                advance(count(step.feeds))

    def chosen_batches(
        self, title: str, samples: Mapping[int, int]
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """The feeds of some batches, by the number of each, with the progress told.

        Args:
            title: what they are for.
            samples: number of the batch -> samples in it.
        """
        advance = self.progress(title, sum(samples.values()))
        for number, step in self.data.chosen_batches(self.batch, samples):
            yield number, step.feeds
            advance(samples[number])


def count(feeds: Mapping[str, NDArray[Any]]) -> int:
    """Samples in a batch."""
    return len(next(iter(feeds.values())))
