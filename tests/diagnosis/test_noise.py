"""Energies, decibels and firing, against a few lines of NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from graphpass.diagnosis.noise import Firing, Noise, decibels
from graphpass.diagnosis.substitution import View


def view(seed: int, levels: int = 4) -> View:
    rng = np.random.default_rng(seed)
    current = rng.normal(size=(5, 3)).astype(np.float32)
    counts = rng.integers(0, levels + 1, (5, 3)).astype(np.float32)
    return View(current, np.maximum(current, 0), counts / np.float32(levels), counts)


def test_noise_adds_up_over_batches() -> None:
    pairs = [(view(1), view(2)), (view(3), view(4))]
    noise = Noise()
    for ann, snn in pairs:
        noise.add(ann, snn, 4)

    def total(function: object) -> float:
        return sum(float(np.square(function(a, s), dtype=np.float64).sum()) for a, s in pairs)  # type: ignore[operator]

    assert noise.current == pytest.approx(total(lambda a, _: a.current))
    assert noise.current_error == pytest.approx(total(lambda a, s: s.current - a.current))
    assert noise.activation == pytest.approx(total(lambda a, _: a.ann))
    assert noise.activation_error == pytest.approx(total(lambda a, s: s.snn - a.ann))
    assert noise.own_error == pytest.approx(total(lambda a, _: a.snn - a.ann))
    assert noise.clipped == pytest.approx(total(lambda a, _: (a.snn - a.ann) * (a.counts == 4)))
    assert 0 < noise.clipped < noise.own_error


def test_firing() -> None:
    firing = Firing(4)
    firing.add(np.array([[0, 4], [1, 0]], np.float32))
    firing.add(np.array([[4, 4], [0, 3]], np.uint8))
    assert (firing.neurons, firing.spikes, firing.saturated, firing.silent) == (8, 16, 3, 3)
    assert firing.rate == 0.5
    assert firing.share(firing.saturated) == 0.375


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    assert decibels(1.0, 10.0) == pytest.approx(-10.0)
    assert decibels(1.0, 0.0) is None
    assert decibels(np.inf, 1.0) is None
    assert decibels(1.0, np.nan) is None
    assert decibels(0.0, 1.0) == pytest.approx(-120.0)
