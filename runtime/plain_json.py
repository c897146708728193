"""Values from JSON that anybody may have written: what they must be, or a reason why not.

JSON has one kind of number, Python three that pass for each other: an axis may come as 1.5,
as true, or with five thousand digits. Every function raises TypeError or ValueError.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 2**31 - 1
_INFINITE = 2.0**128 - 2.0**103  # what float32 rounds to infinity


def dump(value: Any) -> str:
    """The same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load(text: str, kind: type) -> Any:
    """A value of this kind, all its numbers finite, and whole ones of 64 bits."""
    value = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    if not isinstance(value, kind):
        raise TypeError(f"{text[:20]} is not a {kind.__name__}")
    return value


def integer(value: Any, least: int, most: int = _LARGEST) -> int:
    """A whole number within bounds."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:20]} is no whole number")
    if not least <= value <= most:
        raise ValueError(f"{value if abs(value) < _LARGEST else 'a number'} is out of range")
    return value


def integer_or_none(value: Any, least: int, most: int = _LARGEST) -> int | None:
    """The same, or nothing."""
    return None if value is None else integer(value, least, most)


def floats(values: Any) -> tuple[float, ...]:
    """A list of numbers that are finite in float32 too."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise TypeError("no list of numbers")
    if not all(abs(value) < _INFINITE for value in values):  # of any number of digits
        raise ValueError("a number is not finite in float32")
    return tuple(map(float, values))


def vector(values: Any) -> NDArray[np.float32]:
    """The same as float32 ``[C]``, C at least 1."""
    array = np.array(floats(values), np.float32)
    if not array.size:
        raise ValueError("a list of no numbers")
    return array


def numbers(array: NDArray[np.float32]) -> list[float]:
    """Inverse of `vector`, to the bit."""
    # str(float32) is the shortest decimal that reads back as the same float32,
    # about half as long as the float64 spelling.
    return [float(str(value)) for value in array.astype(np.float32).ravel()]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not finite")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:  # which no float may hold, nor print
        raise ValueError("a whole number of more than 64 bits")
    return value
