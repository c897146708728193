"""Whether a model computes every sample by itself, so that batches may be cut and joined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphpass_runtime.batch import Batch
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.feeds import Array
from graphpass_runtime.session import Session

# Of the largest value of an output. Kernels sum in another order for another batch size;
# where samples mix, or axis 0 counts something else, outputs differ by far more.
_TOLERANCE = 1e-3


def samples_are_independent(
    open_session: Callable[[], Session], left: Batch, right: Batch, both: Batch
) -> bool:
    """Run two batches, and both as one, and compare the outputs.

    An axis 0 that has no name may count points or words instead of samples, and a model with
    a state of its own is made for one size of a batch, whatever its file says.

    Args:
        open_session: of the model.
        left: a batch.
        right: another one.
        both: the two joined.

    Raises:
        DataError: a batch does not fit the model.
        ModelError: the model fails on a batch as it came.
    """
    session = open_session()
    apart = [session.run(part.feeds) for part in (left, right)]
    try:
        together = session.run(both.feeds)
    except (DataError, ModelError):
        return False
    return all(_same([part[name] for part in apart], array) for name, array in together.items())


def _same(parts: list[Array], whole: Array) -> bool:
    if not all(array.ndim and array.shape[1:] == whole.shape[1:] for array in (whole, *parts)):
        return False  # each found another number of boxes, say
    joined = np.concatenate(parts)
    if joined.shape != whole.shape:
        return False
    if whole.dtype.kind != "f":
        return np.array_equal(joined, whole)
    scale = float(np.abs(whole).max(initial=0))
    return np.allclose(joined, whole, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)
