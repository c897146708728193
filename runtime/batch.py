"""Some samples for a model, and how such batches are put together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphpass_runtime.datasets import Labels
from graphpass_runtime.feeds import Array


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples.

    Attributes:
        feeds: an array for every input of the model.
        labels: int64 class indices ``[N]``, None for unlabelled data.
    """

    feeds: dict[str, Array]
    labels: Labels | None


def joined(
    batches: Iterator[Batch],
    batched: Collection[str],
    size: int,
    may_join: Callable[[Batch, Batch, Batch], bool],
) -> Iterator[Batch]:
    """Put batches together, as many at a time as fit into one of a size.

    Args:
        batches: labelled all of them, or none.
        batched: the inputs that have samples on axis 0. Only batches that differ there in
            nothing but length, and in the other inputs in nothing, are joined.
        size: samples; a batch that is larger stays as it is.
        may_join: asked once, with the first two batches that could be joined, and with both
            as one: if not, all batches stay as they are.
    """
    waiting: list[Batch] = []
    count = 0
    allowed: bool | None = None
    for batch in batches:
        length = max(len(batch.feeds[name]) for name in batched)
        fits = bool(waiting) and count + length <= size and _alike(waiting[0], batch, batched)
        if fits and allowed is None:
            allowed = may_join(waiting[0], batch, _one([waiting[0], batch], batched))
        if waiting and not (fits and allowed):
            yield _one(waiting, batched)
            waiting, count = [], 0
        waiting.append(batch)
        count += length
        if count >= size:  # without asking a generator for more
            yield _one(waiting, batched)
            waiting, count = [], 0
    if waiting:
        yield _one(waiting, batched)


def _alike(left: Batch, right: Batch, batched: Collection[str]) -> bool:
    return all(
        array.shape[1:] == right.feeds[name].shape[1:] and array.dtype == right.feeds[name].dtype
        if name in batched
        else np.array_equal(array, right.feeds[name])
        for name, array in left.feeds.items()
    )


def _one(batches: Sequence[Batch], batched: Collection[str]) -> Batch:
    first = batches[0]
    if len(batches) == 1:
        return first
    feeds = {
        name: np.concatenate([batch.feeds[name] for batch in batches]) if name in batched else array
        for name, array in first.feeds.items()
    }
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(feeds, np.concatenate(labels) if labels else None)
