"""Reading values of a known kind from JSON that someone else wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from graphpass_runtime.errors import DataError

_MISSING = object()
_LONGEST_LIST = 4096


class ConfigReader:
    """Typed access to a JSON object; every mistake is a DataError that names the key.

    Args:
        config: the parsed JSON object.
        where: what to call it in an error.
    """

    def __init__(self, config: Mapping[str, Any], where: str | None = None) -> None:
        self._config = config
        self._where = where

    def flag(self, key: str, *, default: bool) -> bool:
        """A JSON boolean; `default` when absent."""
        value = self._get((key,), default)
        return value if isinstance(value, bool) else self._fail((key,), "true or false")

    def integer(self, *keys: str, default: int | None = None) -> int:
        """A whole number, at a path of keys."""
        value = self._get(keys, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail(keys, "a whole number")
        return value

    def number(self, key: str, *, default: float) -> float:
        """A finite number."""
        return self._finite((key,), self._get((key,), default))

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers, or one number on its own."""
        value = self._get((key,), None)
        items = value if isinstance(value, list | tuple) else [value]
        if not 1 <= len(items) <= _LONGEST_LIST:
            self._fail((key,), "a list of numbers")
        return tuple(self._finite((key,), item) for item in items)

    def choice(self, key: str, options: Sequence[str]) -> str:
        """One of some strings; the first is the default."""
        value = self._get((key,), options[0])
        if not isinstance(value, str) or value not in options:
            self._fail((key,), " or ".join(options))
        return value

    def is_object(self, key: str) -> bool:
        """Whether there is a JSON object under the key."""
        return isinstance(self._config.get(key), Mapping)

    def has(self, key: str, inner: str) -> bool:
        """Whether there is a JSON object with `inner` under the key."""
        return self.is_object(key) and inner in self._config[key]

    def _get(self, keys: Sequence[str], default: Any) -> Any:
        value: Any = self._config
        for key in keys:
            value = value.get(key, _MISSING) if isinstance(value, Mapping) else _MISSING
        # Hugging Face writes null for "not set".
        if value is _MISSING or value is None:
            value = default
        if value is None:
            raise DataError(
                f"preprocessing key {'.'.join(keys)!r} is missing",
                where=self._where,
                remedy="add it, or switch its step off",
            )
        return value

    def _finite(self, keys: Sequence[str], value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(keys, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        return number if math.isfinite(number) else self._fail(keys, "finite")

    def _fail(self, keys: Sequence[str], wanted: str) -> NoReturn:
        raise DataError(
            f"preprocessing key {'.'.join(keys)!r} must be {wanted}",
            where=self._where,
            remedy="correct it",
        )
