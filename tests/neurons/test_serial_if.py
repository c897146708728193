"""The serial network against integrate-and-fire neurons that are simulated in NumPy.

Weights, shifts and thresholds are small dyadic numbers, so that every sum is exact and
potentials land on thresholds as often as beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import convert
from graphpass.model import load, save
from graphpass_runtime.neuron import Carrier
from graphpass_runtime.session import Session

SERIAL = ["scan", "step"]
Parameters = dict[str, tuple[list[float], list[float], list[float]]]

# Static currents, currents that vary, a residual Add of the two, and a tail after the mean.
RESIDUAL = """g (float[N,4] x) => (float[N,3] y, float[N,4] z) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    c = Clip(b, zero, one)
    d = MatMul(c, w2)
    e = Add(d, a)
    f = Clip(e, zero, one)
    z = Add(f, b)
    h = MatMul(f, w3)
    y = Softmax <axis = 1> (h)
}"""
RESIDUAL_NEURONS: Parameters = {
    "c": ([4.0, 1.0, 2.0, 0.5], [0.5, -0.25, 0.0, 0.0], [1.0, 0.25, 0.5, 0.25]),
    "f": ([2.0, 1.0, 8.0, 0.5], [0.0, 0.25, -0.5, 0.125], [0.5, 0.25, 1.0, 0.125]),
}

CONV = """g (float[N,2,6,6] x) => (float[N,3] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    b = Clip(a, zero, one)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b)
    c = Conv(p, w2, b2)
    d = Clip(c, zero, one)
    e = GlobalAveragePool(d)
    y = Flatten(e)
}"""
CONV_NEURONS: Parameters = {
    "b": ([2.0, 1.0], [0.0, 0.0], [0.5, 0.25]),
    "d": ([1.0, 4.0, 2.0], [0.25, -0.5, 0.0], [0.25, 1.5, 0.5]),
}


def dyadic(*shape: int, seed: int) -> Any:
    return (np.random.default_rng(seed).integers(-4, 5, shape) / 4).astype(np.float32)


RESIDUAL_WEIGHTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "w1": dyadic(4, 4, seed=1),
    "b1": dyadic(4, seed=2),
    "w2": dyadic(4, 4, seed=3),
    "w3": dyadic(4, 3, seed=4),
}
CONV_WEIGHTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "w1": dyadic(2, 2, 3, 3, seed=1),
    "b1": dyadic(2, seed=2),
    "w2": dyadic(3, 2, 2, 2, seed=3),
    "b2": dyadic(3, seed=4),
}


class IF:
    """A layer of integrate-and-fire neurons; channels on axis 1."""

    def __init__(self, parameters: tuple[list[float], ...], steps: int, rank: int) -> None:
        shape = (1, -1, *[1] * (rank - 2))
        self.theta, self.shift, self.amplitude = (np.reshape(p, shape) for p in parameters)
        self.steps = steps
        self.v: Any = self.theta / 2
        self.spikes: Any = 0

    def step(self, current: Any) -> Any:
        self.v = self.v + current + self.shift
        fires = (self.v >= self.theta).astype(np.float64)
        self.v = self.v - self.theta * fires
        self.spikes = self.spikes + fires
        return fires * self.steps * self.amplitude


def simulate_residual(x: Any, steps: int) -> tuple[dict[str, Any], dict[str, IF]]:
    w = {name: np.asarray(array, np.float64) for name, array in RESIDUAL_WEIGHTS.items()}
    first, second = (IF(RESIDUAL_NEURONS[name], steps, 2) for name in "cf")
    a = x @ w["w1"]
    h = z = 0.0
    for _ in range(steps):
        f = second.step(first.step(a + w["b1"]) @ w["w2"] + a)
        h, z = h + f @ w["w3"] / steps, z + (f + a + w["b1"]) / steps
    powers = np.exp(h - np.max(h, axis=1, keepdims=True))
    y = powers / powers.sum(axis=1, keepdims=True)
    return {"y": y, "z": z}, {"c": first, "f": second}


def convolve(x: Any, w: Any, b: Any) -> Any:
    rows, columns = x.shape[2] - w.shape[2] + 1, x.shape[3] - w.shape[3] + 1
    y = np.empty((len(x), len(w), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i : i + w.shape[2], j : j + w.shape[3]]
            y[:, :, i, j] = np.tensordot(patch, w, ([1, 2, 3], [1, 2, 3])) + b
    return y


def simulate_conv(x: Any, steps: int) -> tuple[dict[str, Any], dict[str, IF]]:
    w = {name: np.asarray(array, np.float64) for name, array in CONV_WEIGHTS.items()}
    first, second = (IF(CONV_NEURONS[name], steps, 4) for name in "bd")
    a = convolve(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), w["w1"], w["b1"])
    y = 0.0
    for _ in range(steps):
        spikes = first.step(a)
        pooled = spikes.reshape(*spikes.shape[:2], 3, 2, 3, 2).max(axis=(3, 5))
        y = y + second.step(convolve(pooled, w["w2"], w["b2"])).mean(axis=(2, 3)) / steps
    return {"y": y}, {"b": first, "d": second}


NETWORKS = {
    "residual": (RESIDUAL, RESIDUAL_WEIGHTS, RESIDUAL_NEURONS, simulate_residual, (4,)),
    "conv": (CONV, CONV_WEIGHTS, CONV_NEURONS, simulate_conv, (2, 6, 6)),
}
Make = Callable[..., Path]


@pytest.fixture
def serial(write_model: Callable[..., Path], tmp_path: Path) -> Make:
    """Convert a network with given neuron parameters to a serial file."""

    def make(network: str, steps: int, form: str, opset: int = 17) -> Path:
        text, weights, neurons, *_ = NETWORKS[network]
        ann, folder = write_model(text, weights, opset=opset), tmp_path / "stages"
        options = {"calibrate": "none", "first_activation": "spiking", "stages": folder}
        convert(ann, tmp_path / "unused.onnx", steps=steps, **options)
        stage = load(folder / "3-calibrated.onnx")
        assert stage.record is not None
        assert [neuron.name for neuron in stage.record.neurons] == list(neurons)
        stage.note(neurons=tuple(_with(n, *neurons[n.name]) for n in stage.record.neurons))
        save(stage, folder / "own.onnx")
        path = tmp_path / f"{form}.onnx"
        convert(folder / "own.onnx", path, method="qcfs", serial=form)
        return path

    return make


def _with(neuron: Any, theta: Any, shift: Any, amplitude: Any) -> Any:
    return replace(
        neuron,
        threshold=np.array(theta, np.float32),
        shift=np.array(shift, np.float32),
        amplitude=np.array(amplitude, np.float32),
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", SERIAL)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 32])
def test_outputs_equal_the_simulation(network: str, form: str, steps: int, serial: Make) -> None:
    *_, simulate, shape = NETWORKS[network]
    session = Session(serial(network, steps, form), threads=1)
    for samples in (1, 3, 1):  # in one session: nothing may be left over
        x = 2 * dyadic(samples, *shape, seed=samples)
        expected, _ = simulate(x.astype(np.float64), steps)
        found = session.run({"x": x})
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("steps", [1, 3, 16])
def test_spike_counts_equal_the_simulation(network: str, steps: int, serial: Make) -> None:
    *_, simulate, shape = NETWORKS[network]
    session = Session(serial(network, steps, "step"), threads=1)
    x = 2 * dyadic(3, *shape, seed=5)
    _, layers = simulate(x.astype(np.float64), steps)
    found = session.spike_counts({"x": x})
    rates = session.firing_rates({"x": x})
    for name, layer in layers.items():
        np.testing.assert_array_equal(found[name], layer.spikes)
        others = (0, *range(2, layer.spikes.ndim))
        np.testing.assert_allclose(rates[name], layer.spikes.mean(axis=others) / steps)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_networks_above_have_ties_and_uneven_trains(network: str) -> None:
    *_, simulate, shape = NETWORKS[network]
    x = 2 * dyadic(50, *shape, seed=7).astype(np.float64)
    _, layers = simulate(x, 8)
    for layer in layers.values():
        assert {0, 8} <= set(np.unique(layer.spikes)), "silent and saturated ones"
        assert len(np.unique(layer.spikes)) > 5
        # A potential that started at theta/2 and ends there has met a threshold on the way.
        assert np.mean(layer.v == 0) > 0.005


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_every_opset(opset: int, write_model: Callable[..., Path], tmp_path: Path) -> None:
    text = """g (float[N,2] x) => (float[N,2] y) {
        a = MatMul(x, w)
        b = Relu(a)
        y = MatMul(b, w)
    }"""
    ann = write_model(text, {"w": np.eye(2, dtype=np.float32)}, opset=opset)
    outputs = []
    for form in SERIAL:
        convert(
            *(ann, tmp_path / "snn.onnx"),
            **{"steps": 4, "method": "qcfs", "serial": form, "calibrate": "none"},
            first_activation="spiking",
            data=[{"x": np.array([[4.0, 4.0]], np.float32)}],
        )
        session = Session(tmp_path / "snn.onnx")
        outputs.append(session.run({"x": np.array([[1, 3], [0.4, 9]], np.float32)})["y"])
        assert session.record is not None
        assert {neuron.carrier for neuron in session.record.neurons} == {Carrier.SERIAL}
    for output in outputs:
        np.testing.assert_allclose(output, [[1, 3], [0, 4]], rtol=1e-6)
