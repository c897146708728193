"""The batch size as a number, so that shape arithmetic can be followed with numbers alone.

While shapes are inferred, the free batch axis has a size that is prime and larger than
any axis: what comes out as a multiple of it is a multiple of the batch, and what does not
come near it has nothing to do with the batch.
"""

from __future__ import annotations

import re
from typing import Any

import onnx_graphsurgeon as gs

PROBE = 1_000_000_007
_FAR = PROBE // 4096  # numbers from here on were computed from the batch in another way


def symbol_of(graph: gs.Graph) -> str | None:
    """Name of the free batch size: that of the first input that has one on axis 0."""
    firsts = (tensor.shape[0] for tensor in graph.inputs if tensor.shape)
    return next((size for size in firsts if isinstance(size, str)), None)


def to_number(size: Any, symbol: str | None) -> Any:
    """A size as a number where it is one, or a multiple of the batch; else unchanged."""
    if not isinstance(size, str) or symbol is None:
        return size
    if size == symbol:
        return PROBE
    found = re.fullmatch(r"(\d+)\*" + re.escape(symbol), size)
    return int(found[1]) * PROBE if found else size


def to_size(number: int, symbol: str | None) -> int | str | None:
    """The reverse; None for what depends on the batch but is not a multiple of it."""
    if abs(number) < _FAR:
        return number
    if symbol is None or number < 0 or number % PROBE:
        return None
    factor = number // PROBE
    return symbol if factor == 1 else f"{factor}*{symbol}"


def multiple(size: Any, symbol: str | None) -> int:
    """How many times the batch a size is; 0 where it does not hang on the batch."""
    number = to_number(size, symbol)
    return number // PROBE if isinstance(number, int) and number % PROBE == 0 else 0
