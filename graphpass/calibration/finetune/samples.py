"""Calibration data in memory: split, shuffled, and varied where that needs no label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graphpass.calibration.measuring import Measuring, count
from graphpass_runtime.errors import DataError

_HELD_OUT = 10  # every how many samples one is held out
_FURTHEST = 8  # images move by up to 1/8 of their size
_SMALLEST_IMAGE = 16


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples.

    Attributes:
        feeds: float tensors with the samples on axis 0, by input name; a scalar input
            stands as it is.
        count: how many there are.
    """

    feeds: dict[str, Tensor]
    count: int

    @classmethod
    def read(cls, measuring: Measuring) -> Samples:
        """All calibration samples; unlike the closed rules, this one keeps them."""
        batches = list(measuring.batches("reading samples"))
        joined = {
            name: first if first.ndim == 0 else np.concatenate([feeds[name] for feeds in batches])
            for name, first in batches[0].items()
        }
        feeds = {name: torch.from_numpy(np.array(array)) for name, array in joined.items()}
        return cls(feeds, sum(count(batch) for batch in batches))

    def split(self) -> tuple[Samples, Samples]:
        """The samples to learn from, and those held out: every tenth, at least one.

        Raises:
            DataError: a single sample.
        """
        if self.count < 2:
            raise DataError(
                "finetuning holds samples out, and there is only one", remedy="give more data"
            )
        step = min(_HELD_OUT, self.count)
        held = torch.arange(self.count) % step == step - 1
        return self._pick((~held).nonzero()[:, 0]), self._pick(held.nonzero()[:, 0])

    def batches(self, size: int) -> Iterator[Samples]:
        """In order."""
        for index in torch.arange(self.count).split(size):
            yield self._pick(index)

    def shuffled(self, size: int, random: torch.Generator) -> Iterator[Samples]:
        """Every sample once in random order; images shifted and mirrored at random.

        Both leave a photograph a photograph, and what it should give is what the ANN makes
        of it: no label is needed. Only a single input with three colour channels is taken
        for one; mirrored digits, say, are none.
        """
        for index in torch.randperm(self.count, generator=random).split(size):
            batch = self._pick(index)
            if len(batch.feeds) == 1:
                feeds = {name: _varied(x, random) for name, x in batch.feeds.items()}
                batch = Samples(feeds, batch.count)
            yield batch

    def _pick(self, index: Tensor) -> Samples:
        feeds = {name: x if x.ndim == 0 else x[index] for name, x in self.feeds.items()}
        return Samples(feeds, len(index))


def _varied(images: Tensor, random: torch.Generator) -> Tensor:
    """Photographs moved by some pixels, zeros (about the mean colour) coming in, and mirrored."""
    if images.ndim == 4 and images.shape[3] == 3 and images.shape[1] != 3:
        return _varied(images.permute(0, 3, 1, 2), random).permute(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < _SMALLEST_IMAGE:
        return images
    number, _, height, width = images.shape
    reach = (height // _FURTHEST, width // _FURTHEST)
    padded = functional.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    top, left = (
        torch.randint(0, 2 * far + 1, (number,), generator=random).tolist() for far in reach
    )
    mirrored = torch.randint(0, 2, (number,), generator=random).tolist()
    result = torch.empty_like(images)
    for i in range(number):
        moved = padded[i, :, top[i] : top[i] + height, left[i] : left[i] + width]
        result[i] = moved.flip(2) if mirrored[i] else moved
    return result
