"""What a diagnosis says of a layer, and the order of the layers."""

from __future__ import annotations

import pytest

from graphpass.diagnosis.noise import Firing, Noise
from graphpass.diagnosis.report import Layer, by_damage, layer

FIRING = Firing(levels=4, neurons=100, spikes=80, saturated=12, silent=50)


def noise(own: float, total: float, clipped: float = 0.0) -> Noise:
    return Noise(10.0, 1.0, 10.0, total, own, clipped)


@pytest.mark.parametrize(
    ("firing", "sums", "share", "words"),
    [
        (Firing(4, neurons=9, silent=9), noise(1, 1), 0.9, "silent"),
        (FIRING, noise(0, 0), None, "exact"),
        (FIRING, noise(1, 4), 0.03, "upstream"),
        (FIRING, noise(1, 4), None, "upstream"),
        (FIRING, noise(1, 4), 0.2, "rounding: more steps"),
        (FIRING, noise(3, 4), 0.0, "rounding: more steps"),
        (FIRING, noise(3, 4, 2), 0.0, "saturates 12.0 % of the time: more steps, or a higher"),
        (Firing(4, neurons=9, spikes=9), noise(3, 4), 0.0, "never saturates"),
        (None, noise(3, 4, 2), 0.0, "saturates: more steps"),
    ],
)
def test_advice(firing: Firing | None, sums: Noise, share: float | None, words: str) -> None:
    assert words in layer("a", firing, sums, share).advice


def test_numbers() -> None:
    found = layer("a", FIRING, noise(2, 4), 0.5)
    assert (found.rate, found.saturated, found.silent, found.share) == (0.2, 0.12, 0.5, 0.5)
    decibels = (found.current_db, found.activation_db, found.own_db)
    assert decibels == pytest.approx((10.0, 3.979, 6.990), abs=1e-3)


def test_firing_alone() -> None:
    found = layer("a", FIRING)
    assert found == Layer("a", rate=0.2, saturated=0.12, silent=0.5)
    assert layer("a", None) == Layer("a")


def test_most_damage_first_and_the_unknown_last_in_order() -> None:
    shares = {"a": None, "b": 0.1, "c": -0.2, "d": 0.6, "e": None}
    ordered = by_damage([Layer(name, share) for name, share in shares.items()])
    assert [one.name for one in ordered] == ["d", "b", "c", "a", "e"]
