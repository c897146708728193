"""Neurons behind scalar functions, in every form, against their definition step by step.

Step x of T fires when n >= T - x + 1, n = Clip(Floor(T (f(z) - baseline + shift) / theta + 1/2),
0, T), z being the mean current. Numbers are small and dyadic, so that float32 is exact and
potentials lie on thresholds as often as beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

FORMS = ("matmul", "sorted", "counts", "counts-cpu")
Spiking = Callable[..., Any]

MLP = """g (float[N,4] x) => (float[N,2] y) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    c = LeakyRelu <alpha = 0.5> (b)
    d = MatMul(c, w2)
    e = PRelu(d, slope)
    y = MatMul(e, w3)
}"""
SLOPE = np.array([0.5, 0.25, 0.0])


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "w1": rng.integers(-2, 3, (4, 3)) / 2.0,
        "b1": np.array([0.0, 0.5, -0.5]),
        "w2": rng.integers(-2, 3, (3, 3)) / 2.0,
        "slope": SLOPE,
        "w3": rng.integers(-2, 3, (3, 2)) / 2.0,
    }


def leaky(z: Any, slope: Any = 0.5) -> Any:
    return np.where(z < 0, z * slope, z)


def inputs(samples: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.integers(-8, 9, (samples, 4)) / 4).astype(np.float32)


def layers(bench: Any, steps: int) -> tuple[Any, Any]:
    return (
        bench.layer([steps, 2.0 * steps, steps / 2], [0.5, -0.25, 0.0], [0.0, steps, -steps / 4]),
        bench.layer([steps, steps / 4, 2.0 * steps], [0.0, 0.25, -0.5], [0.0, steps, 0.0]),
    )


def expected(bench: Any, x: Any, first: Any, second: Any, steps: int, neurons: Any) -> Any:
    """Spikes of both layers [T, N, C], and the output."""
    w, current, found = weights(), [], []
    current = np.repeat((x.astype(np.float64) @ w["w1"] + w["b1"])[None], steps, axis=0)
    for layer, slope, matrix, neuron in (
        (first, 0.5, w["w2"], neurons[0]),
        (second, SLOPE, w["w3"], neurons[1]),
    ):
        baseline = neuron.baseline.astype(np.float64)
        above = leaky(current.mean(axis=0), slope) - baseline
        spikes, trains = bench.parallel_neuron(np.repeat(above[None], steps, axis=0), layer, 1)
        found.append(spikes)
        current = (trains + baseline) @ matrix
    return *found, current.mean(axis=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 32])
def test_mlp_at_batch_sizes_that_change(
    bench: Any, spiking: Spiking, steps: int, form: str
) -> None:
    first, second = layers(bench, steps)
    data = [{"x": inputs(16, 7)}]
    proto, neurons = spiking(MLP, weights(), [first, second], steps, form, data=data)
    assert [neuron.sign for neuron in neurons] == [1, 1]
    assert all((neuron.baseline <= 0).all() for neuron in neurons)
    for samples in (1, 3, 1):
        x = inputs(samples, steps + samples)
        s1, s2, y = expected(bench, x, first, second, steps, neurons)
        found, found1, found2 = bench.run(proto, x)
        bench.check(found1, s1, neurons[0])
        bench.check(found2, s2, neurons[1])
        np.testing.assert_allclose(found, y, rtol=1e-6, atol=1e-6)


def test_the_network_above_has_ties_and_every_count(bench: Any, spiking: Spiking) -> None:
    steps = 4
    first, second = layers(bench, steps)
    _, neurons = spiking(
        MLP, weights(), [first, second], steps, "counts", data=[{"x": inputs(16, 7)}]
    )
    x = inputs(400, 3)
    s1, s2, _ = expected(bench, x, first, second, steps, neurons)
    for spikes in (s1, s2):
        assert set(np.unique(spikes.sum(axis=0))) == set(range(steps + 1))
        assert (np.diff(spikes.astype(int), axis=0) >= 0).all()  # silence first, spikes last
    z = x.astype(np.float64) @ weights()["w1"] + weights()["b1"]
    above = leaky(z) - neurons[0].baseline + first.psi_da
    u = steps * above / first.theta + 0.5
    assert np.mean(u == np.rint(u)) > 0.05


# A baseline is no zero: what is padded with zeros shows whether it went into a bias.
CONV = """g (float[N,2,4,4] x) => (float[N,2,4,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    c = LeakyRelu <alpha = 0.5> (a)
    y = Conv <pads = [1,1,1,1]> (c, w2, b2)
}"""


def convolve(x: Any, w: Any, b: Any) -> Any:
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1)] * 2)
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(-2, -1))
    return np.einsum("...chwij,ocij->...ohw", windows, w) + b[:, None, None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [1, 3])
def test_padding_behind_a_baseline(bench: Any, spiking: Spiking, form: str, samples: int) -> None:
    steps, rng = 4, np.random.default_rng(2)
    given = {
        "w1": rng.integers(-2, 3, (2, 2, 3, 3)) / 2.0,
        "b1": np.array([0.5, -0.5]),
        "w2": rng.integers(-2, 3, (2, 2, 3, 3)) / 2.0,
        "b2": np.array([0.0, 0.25]),
    }
    layer = bench.layer([8.0, 4.0], [0.25, 0.0], [0.0, 4.0])
    data = [{"x": (rng.integers(-4, 5, (3, 2, 4, 4)) / 2).astype(np.float32)}]
    proto, (neuron,) = spiking(CONV, given, [layer], steps, form, data=data)
    assert (neuron.baseline < 0).all()
    x = (rng.integers(-4, 5, (samples, 2, 4, 4)) / 2).astype(np.float32)
    baseline = neuron.baseline.astype(np.float64)[:, None, None]
    above = leaky(convolve(x.astype(np.float64), given["w1"], given["b1"])) - baseline
    spikes, trains = bench.parallel_neuron(np.repeat(above[None], steps, axis=0), layer, 1)
    y, found = bench.run(proto, x)
    bench.check(found, spikes, neuron)
    by_step = convolve(trains + baseline, given["w2"], given["b2"])
    np.testing.assert_allclose(y, by_step.mean(axis=0), rtol=1e-6, atol=1e-6)


POOLED = """g (float[N,2,4,4] x) => (float[N,2,2,2] y) {
    a = Conv (x, w1, b1)
    c = LeakyRelu <alpha = 0.5> (a)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)
    y = Conv (p, w2, b2)
}"""


@pytest.mark.parametrize("form", FORMS)
def test_max_pool_of_one_train_with_a_baseline(bench: Any, spiking: Spiking, form: str) -> None:
    steps, rng = 4, np.random.default_rng(3)
    given = {
        "w1": rng.integers(-2, 3, (2, 2, 1, 1)) / 2.0,
        "b1": np.array([0.5, -0.5]),
        "w2": rng.integers(-2, 3, (2, 2, 1, 1)) / 2.0,
        "b2": np.array([0.0, 0.25]),
    }
    layer = bench.layer([8.0, 4.0], [0.25, 0.0], [0.0, 4.0])
    x = (rng.integers(-4, 5, (3, 2, 4, 4)) / 2).astype(np.float32)
    proto, (neuron,) = spiking(POOLED, given, [layer], steps, form, data=[{"x": x}])
    baseline = neuron.baseline.astype(np.float64)[:, None, None]
    z = np.einsum("nchw,oc->nohw", x, given["w1"][..., 0, 0]) + given["b1"][:, None, None]
    spikes, trains = bench.parallel_neuron(
        np.repeat((leaky(z) - baseline)[None], steps, axis=0), layer, 1
    )
    y, found = bench.run(proto, x)
    bench.check(found, spikes, neuron)
    pooled = (trains + baseline).reshape(steps, 3, 2, 2, 2, 2, 2).max(axis=(4, 6))
    by_step = np.einsum("tnchw,oc->tnohw", pooled, given["w2"][..., 0, 0])
    np.testing.assert_allclose(
        y, by_step.mean(axis=0) + given["b2"][:, None, None], rtol=1e-6, atol=1e-6
    )


ROWS = """g (float[N,3,4] x) => (float[N,3,2] y) {
    t = Transpose <perm = [1,0,2]> (x)
    a = MatMul(t, w1)
    b = PRelu(a, slope)
    c = MatMul(b, w2)
    d = LeakyRelu <alpha = 0.5> (c)
    e = MatMul(d, w3)
    y = Transpose <perm = [1,0,2]> (e)
}"""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [1, 3])
def test_batch_on_axis_one(bench: Any, spiking: Spiking, form: str, samples: int) -> None:
    steps, given, rng = 4, weights(), np.random.default_rng(5)
    del given["b1"]
    first, second = layers(bench, steps)
    x = (rng.integers(-8, 9, (samples, 3, 4)) / 4).astype(np.float32)
    data = [{"x": (rng.integers(-8, 9, (8, 3, 4)) / 4).astype(np.float32)}]
    proto, neurons = spiking(ROWS, given, [first, second], steps, form, data=data)
    assert [(n.batch_axis, n.channel_axis) for n in neurons] == [(1, 2), (1, 2)]
    found, *all_spikes = bench.run(proto, x)
    current = np.repeat((x.astype(np.float64).transpose(1, 0, 2) @ given["w1"])[None], steps, 0)
    for layer, slope, matrix, neuron, shown in (
        (first, SLOPE, given["w2"], neurons[0], all_spikes[0]),
        (second, 0.5, given["w3"], neurons[1], all_spikes[1]),
    ):
        baseline = neuron.baseline.astype(np.float64)
        above = leaky(current.mean(axis=0), slope) - baseline
        spikes, trains = bench.parallel_neuron(np.repeat(above[None], steps, axis=0), layer, 2)
        bench.check(shown, spikes, neuron, batch_axis=1)
        current = (trains + baseline) @ matrix
    expected_output = current.mean(axis=0).transpose(1, 0, 2)
    np.testing.assert_allclose(found, expected_output, rtol=1e-6, atol=1e-6)
