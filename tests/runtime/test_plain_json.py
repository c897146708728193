"""Numbers that JSON has and Python takes for something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphpass_runtime import plain_json


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], 10**4000, 0, 8])
def test_no_integer_from_1_to_7(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        plain_json.integer(value, 1, 7)
    assert len(str(caught.value)) < 80


def test_integers() -> None:
    assert plain_json.integer(7, 1, 7) == 7
    assert plain_json.integer_or_none(None, 1) is None
    assert plain_json.integer_or_none(2, 1) == 2


@pytest.mark.parametrize(
    "values",
    [None, "12", 1.0, {"a": 1}, [[1.0]], ["1"], [True], [None], [1e39], [10**4000], [-(10**400)]],
)
def test_no_numbers(values: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain_json.floats(values)


def test_vectors_have_elements() -> None:
    assert plain_json.floats([]) == ()
    with pytest.raises(ValueError, match="no numbers"):
        plain_json.vector([])


def test_vectors_are_read_to_the_bit() -> None:
    array = np.random.default_rng(0).normal(size=100).astype(np.float32)
    array[:2] = np.finfo(np.float32).max, 1e-45
    assert np.array_equal(plain_json.vector(plain_json.numbers(array)), array)


@pytest.mark.parametrize(
    "text",
    ["NaN", "[1e999]", "[-Infinity]", "{", "[]", '"x"', "9" * 5000, '{"a": 1' + "0" * 30 + "}"],
)
def test_no_object_of_finite_numbers(text: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain_json.load(text, dict)


@pytest.mark.parametrize(("number", "fits"), [(-(2**63), True), (2**63 - 1, True), (2**63, False)])
def test_whole_numbers_are_those_that_an_attribute_holds(number, fits):
    if fits:
        assert plain_json.load(f'{{"a": {number}}}', dict) == {"a": number}
    else:
        with pytest.raises(ValueError, match="64 bits"):
            plain_json.load(f'{{"a": {number}}}', dict)
