"""How many batches the currents are matched on."""

from __future__ import annotations

import pytest

from graphpass.calibration import recording


@pytest.mark.parametrize("samples", [1, 500, 640, 1000, 1024, 4000, 100_000])
def test_matching_does_not_grow_with_the_data(samples):
    batches = -(-samples // 32)
    kept = len(range(0, batches, recording._stride(samples, 32)))
    assert min(batches, recording._PAIRED) <= kept < 2 * recording._PAIRED
