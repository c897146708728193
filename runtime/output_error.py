"""How far the outputs of two networks lie apart.

The size of an output may hang on its values, as that of the boxes that a detector found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def squared_error(found: Array, expected: Array) -> float:
    """The sum of squared differences of one output of two networks, in float64.

    Args:
        found: of one network, any shape.
        expected: of the other, of the same rank; see `aligned`.
    """
    found, expected = aligned(found, expected)
    return energy(found.astype(np.float64) - expected)


def energy(array: Array) -> float:
    """The sum of squares, in float64."""
    return float(np.square(array, dtype=np.float64).sum())


def aligned(found: Array, expected: Array) -> tuple[Array, Array]:
    """Both of the same shape: what only one of them has stands beside zeros."""
    if found.shape == expected.shape:
        return found, expected
    sizes = np.maximum(found.shape, expected.shape)
    return _filled_up(found, sizes), _filled_up(expected, sizes)


def _filled_up(array: Array, sizes: Array) -> Array:
    missing = np.subtract(sizes, array.shape)
    return np.pad(array, [(0, int(count)) for count in missing])
