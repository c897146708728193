"""Calibration data in memory: what is held out, and what is varied."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from graphpass.calibration.finetune.samples import Samples  # noqa: E402
from graphpass_runtime.errors import DataError  # noqa: E402


def numbered(count: int) -> Samples:
    return Samples({"x": torch.arange(count).float(), "rate": torch.tensor(16000)}, count)


@pytest.mark.parametrize(("count", "held"), [(100, 10), (25, 2), (7, 1), (2, 1)])
def test_a_tenth_is_held_out_and_never_learned_from(count, held):
    learning, held_out = numbered(count).split()
    assert held_out.count == held
    assert sorted([*learning.feeds["x"], *held_out.feeds["x"]]) == list(range(count))
    assert learning.count == count - held
    assert learning.feeds["rate"] == 16000


def test_a_single_sample_is_refused():
    with pytest.raises(DataError, match="there is only one"):
        numbered(1).split()


def test_shuffled_gives_each_once_and_the_same_for_the_same_seed():
    runs = [
        torch.cat(
            [b.feeds["x"] for b in numbered(20).shuffled(8, torch.Generator().manual_seed(s))]
        )
        for s in (1, 1, 2)
    ]
    assert sorted(runs[0]) == list(range(20))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def varied(images: torch.Tensor) -> torch.Tensor:
    """One epoch, put back into order by the mark in the middle of each image."""
    random = torch.Generator().manual_seed(0)
    batches = Samples({"x": images}, len(images)).shuffled(4, random)
    return torch.cat([batch.feeds["x"] for batch in batches])


@pytest.mark.parametrize("channels_last", [False, True])
def test_photographs_are_moved_and_mirrored(channels_last):
    images = torch.zeros(40, 3, 16, 24)
    images[:, :, 7, 10] = 1.0
    found = varied(images.permute(0, 2, 3, 1) if channels_last else images)
    found = found.permute(0, 3, 1, 2) if channels_last else found
    assert found.shape == images.shape
    assert (found.sum((1, 2, 3)) == 3).all()
    rows, columns = found[:, 0].nonzero()[:, 1], found[:, 0].nonzero()[:, 2]
    assert set(rows.tolist()) == {5, 6, 7, 8, 9}
    there = {10 + d for d in range(-3, 4)}
    assert there < set(columns.tolist()) <= there | {23 - column for column in there}


@pytest.mark.parametrize("shape", [(8, 1, 28, 28), (8, 3, 8, 8), (8, 16, 3), (8, 640)])
def test_what_is_no_photograph_is_left_alone(shape):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape).float()
    found = varied(x)
    assert torch.equal(found[found.flatten(1)[:, 0].argsort()], x)
