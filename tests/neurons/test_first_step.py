"""Section 4.3: the closed form of the first firing step equals the paper's binary search."""

from __future__ import annotations

import numpy as np
import pytest


def binary_search(u: np.ndarray, steps: int) -> np.ndarray:
    """First step whose threshold T-x+1 the charge reaches, T+1 where there is none."""
    lo, hi = np.ones_like(u), np.full_like(u, steps)
    for _ in range(int(np.ceil(np.log2(steps + 1)))):
        middle = np.floor((lo + hi) / 2)
        fires = u >= steps - middle + 1
        lo, hi = np.where(fires, lo, middle + 1), np.where(fires, middle - 1, hi)
    return lo


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 31, 32, 64])
def test_closed_form_is_what_the_search_finds(steps: int):
    u = np.concatenate([np.arange(-2.0, steps + 3), np.linspace(-1, steps + 2, 997)])
    closed = steps + 1 - np.clip(np.floor(u), 0, steps)
    found = binary_search(u, steps)
    assert np.array_equal(np.minimum(found, steps + 1), closed)
    # And the cumulative compare sets every later step.
    x = np.arange(1, steps + 1)[:, None]
    assert np.array_equal(x >= closed, u >= steps - x + 1)
