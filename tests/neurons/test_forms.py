"""Both spiking forms against the parallel neuron as methods.md spells it out.

The reference is exact: every float32 is a fraction, and so are the entries 1/(T-x+1) of the
T x T conversion matrix. Weights, shifts and thresholds of the networks are small dyadic numbers, so
that float32 sums are exact too, and values land on the thresholds as often as beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest

from graphpass_runtime.neuron import Carrier

FORMS = ("matmul", "sorted", "counts")
STEPS = [1, 2, 3, 4, 5, 7, 8, 16, 31, 64]
Spiking = Callable[..., Any]


def ties(current: Any, layer: Any, channel_axis: int) -> float:
    """Share of neurons whose membrane potential lies on a threshold."""
    steps = len(current)
    shape = [1] * (current.ndim - 1)
    shape[channel_axis] = -1
    theta, psi_da = (np.array(v).reshape(shape) for v in (layer.theta, layer.psi_da))
    u = (current.sum(axis=0) + steps * psi_da) / theta + 0.5
    return float(np.mean(u == np.rint(u)))


ONE = """g (float[N,1] x) => (float[N,1] y) {
    a = MatMul(x, w)
    b = Clip(a, zero, one)
    y = MatMul(b, w)
}"""

MLP = """g (float[N,4] x) => (float[N,2] y) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    c = Clip(b, zero, one)
    d = MatMul(c, w2)
    e = Add(d, b2)
    f = Clip(e, zero, one)
    y = MatMul(f, w3)
}"""


def mlp_weights() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "zero": np.float32(0),
        "one": np.float32(1),
        "w1": rng.integers(-2, 3, (4, 3)) / 2.0,
        "b1": np.array([0.0, 0.5, -0.5]),
        "w2": rng.integers(-2, 3, (3, 4)) / 2.0,
        "b2": np.array([0.5, 0.0, 0.25, 0.0]),
        "w3": rng.integers(-2, 3, (4, 2)) / 2.0,
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("samples", [1, 3])
def test_mlp(bench: Any, spiking: Spiking, steps: int, form: str, samples: int) -> None:
    weights = mlp_weights()
    # The first layer's thresholds are multiples of T: its gain T/theta is a power of two.
    first = bench.layer(
        [steps, 2.0 * steps, steps / 2], [0.5, -0.25, 0.0], [0.0, steps, -steps / 4]
    )
    second = bench.layer([2.0, 1.0, 8.0, 0.5], [0.0, 0.25, -0.5, 0.125], [1.0, 0.0, -2.0, 0.25])
    rng = np.random.default_rng(steps)
    x = (rng.integers(-4 * steps, 4 * steps + 1, (samples, 4)) / 4).astype(np.float32)

    z1 = x.astype(np.float64) @ weights["w1"] + weights["b1"]
    i1 = np.repeat(z1[None], steps, axis=0)
    s1, y1 = bench.parallel_neuron(i1, first, 1)
    i2 = y1 @ weights["w2"] + weights["b2"]
    s2, y2 = bench.parallel_neuron(i2, second, 1)

    proto, neurons = spiking(MLP, weights, [first, second], steps, form)
    assert [n.levels for n in neurons] == [steps, steps]
    y, found1, found2 = bench.run(proto, x)
    bench.check(found1, s1, neurons[0])
    bench.check(found2, s2, neurons[1])
    np.testing.assert_allclose(y, (y2 @ weights["w3"]).mean(axis=0), rtol=1e-6, atol=1e-6)


def test_the_networks_above_have_ties_and_every_count(bench: Any) -> None:
    weights, steps = mlp_weights(), 4
    first = bench.layer(
        [steps, 2.0 * steps, steps / 2], [0.5, -0.25, 0.0], [0.0, steps, -steps / 4]
    )
    x = np.random.default_rng(0).integers(-16, 17, (200, 4)) / 4
    i1 = np.repeat((x @ weights["w1"] + weights["b1"])[None], steps, axis=0)
    spikes, _ = bench.parallel_neuron(i1, first, 1)
    assert ties(i1, first, 1) > 0.1
    assert set(np.unique(spikes.sum(axis=0))) == set(range(steps + 1))
    assert (np.diff(spikes.astype(int), axis=0) >= 0).all()  # silence first, spikes last


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 33])
def test_half_way_goes_up_at_every_level(
    bench: Any, spiking: Spiking, steps: int, form: str
) -> None:
    # z = (k - 1/2) theta/T fires k times; a little below it, k - 1 times.
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(1)}
    theta = 4.0 * steps
    layer = bench.layer([theta], [0.0], [0.0])
    levels = np.arange(-1, steps + 3)
    on = ((levels - 0.5) * theta / steps).astype(np.float32)[:, None]
    proto, neurons = spiking(ONE, weights, [layer], steps, form)
    for z, counts in ((on, levels), (on - np.float32(1e-3), levels - 1)):
        y, found = bench.run(proto, z)
        expected = np.clip(counts, 0, steps)[:, None]
        spikes, _ = bench.parallel_neuron(np.repeat(z[None], steps, axis=0), layer, 1)
        np.testing.assert_array_equal(spikes.sum(axis=0), expected)
        bench.check(found, spikes, neurons[0])
        np.testing.assert_allclose(y, expected * 4.0, rtol=1e-6)


CONV = """g (float[N,2,6,6] x) => (float[N,3] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    b = Clip(a, zero, one)
    c = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b)
    d = Conv(c, w2, b2)
    e = Clip(d, zero, one)
    y4 = GlobalAveragePool(e)
    y = Flatten(y4)
}"""


def convolve(x: Any, w: Any, b: Any, pad: int) -> Any:
    """Plain correlation over the last three axes of [..., C, H, W]."""
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(pad, pad)] * 2)
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(-2, -1))
    return np.einsum("...chwij,ocij->...ohw", windows, w) + b[:, None, None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 3, 4, 16])
def test_convolutions_with_a_max_pool_between(
    bench: Any, spiking: Spiking, steps: int, form: str
) -> None:
    rng = np.random.default_rng(2)
    weights = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "w1": rng.integers(-2, 3, (3, 2, 3, 3)) / 2.0,
        "b1": np.array([0.5, 0.0, -0.5]),
        "w2": rng.integers(-2, 3, (3, 3, 2, 2)) / 2.0,
        "b2": np.array([0.0, 0.25, 0.5]),
    }
    # A spike of the third channel is negative: its pooled train is that of the smallest count.
    first = bench.layer(
        [4.0 * steps, steps, 2.0 * steps], [0.25, 0.0, -0.5], [0.0, steps, -3.0 * steps]
    )
    second = bench.layer([4.0, 2.0, 16.0], [0.5, 0.0, -0.25], [0.0, 2.0, -4.0])
    x = (rng.integers(-4, 5, (2, 2, 6, 6)) / 2).astype(np.float32)

    z1 = convolve(x.astype(np.float64), weights["w1"], weights["b1"], 1)
    s1, y1 = bench.parallel_neuron(np.repeat(z1[None], steps, axis=0), first, 1)
    pooled = y1.reshape(steps, 2, 3, 3, 2, 3, 2).max(axis=(4, 6))
    i2 = convolve(pooled, weights["w2"], weights["b2"], 0)
    s2, y2 = bench.parallel_neuron(i2, second, 1)

    proto, neurons = spiking(CONV, weights, [first, second], steps, form)
    y, found1, found2 = bench.run(proto, x)
    bench.check(found1, s1, neurons[0])
    bench.check(found2, s2, neurons[1])
    np.testing.assert_allclose(y, y2.mean(axis=(0, 3, 4)), rtol=1e-6, atol=1e-6)


SECOND = """g (float[N,3,4] x) => (float[N,3,2] y) {
    t = Transpose <perm = [1,0,2]> (x)
    a = MatMul(t, w1)
    b = Clip(a, zero, one)
    c = MatMul(b, w2)
    d = Clip(c, zero, one)
    e = MatMul(d, w3)
    y = Transpose <perm = [1,0,2]> (e)
}"""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [1, 3])
def test_batch_on_axis_one(bench: Any, spiking: Spiking, form: str, samples: int) -> None:
    steps, rng = 5, np.random.default_rng(3)
    weights = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "w1": rng.integers(-2, 3, (4, 3)) / 2.0,
        "w2": rng.integers(-2, 3, (3, 4)) / 2.0,
        "w3": rng.integers(-2, 3, (4, 2)) / 2.0,
    }
    first = bench.layer([steps, 2.0 * steps, steps / 2], [0.5, 0.0, -0.25], [0.0, steps, 0.0])
    second = bench.layer([4.0, 2.0, 1.0, 8.0], [0.0, 0.5, 0.25, 0.0], [0.0, 1.0, -0.5, 0.0])
    x = (rng.integers(-8, 9, (samples, 3, 4)) / 2).astype(np.float32)

    z1 = x.astype(np.float64).transpose(1, 0, 2) @ weights["w1"]
    s1, y1 = bench.parallel_neuron(np.repeat(z1[None], steps, axis=0), first, 2)
    s2, y2 = bench.parallel_neuron(y1 @ weights["w2"], second, 2)

    proto, neurons = spiking(SECOND, weights, [first, second], steps, form)
    assert [(n.batch_axis, n.channel_axis) for n in neurons] == [(1, 2), (1, 2)]
    y, found1, found2 = bench.run(proto, x)
    bench.check(found1, s1, neurons[0], batch_axis=1)
    bench.check(found2, s2, neurons[1], batch_axis=1)
    expected = (y2 @ weights["w3"]).mean(axis=0).transpose(1, 0, 2)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 5, 16, 64])
def test_random_parameters_off_the_ties(bench: Any, spiking: Spiking, steps: int) -> None:
    # Thresholds that are no round numbers. What lies within 1e-4 of a tie is left to the tests
    # above; everything else must agree to the spike.
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(6)}
    rng = np.random.default_rng(steps)
    theta = rng.uniform(0.1, 5, 6).astype(np.float32)
    layer = bench.layer(
        theta.tolist(),
        rng.normal(0, 0.1, 6).astype(np.float32).tolist(),
        rng.normal(0, 0.1, 6).astype(np.float32).tolist(),
    )
    x = rng.normal(1, 2, (8, 6)).astype(np.float32)
    current = np.repeat(x[None].astype(np.float64), steps, axis=0)
    spikes, trains = bench.parallel_neuron(current, layer, 1)
    u = steps * (x + np.array(layer.psi_da)) / theta + 0.5
    clear = np.abs(u - np.rint(u)) > 1e-4
    assert clear.sum() > 40
    for form in FORMS:
        proto, neurons = spiking(ONE.replace("N,1", "N,6"), weights, [layer], steps, form)
        y, found = bench.run(proto, x)
        if neurons[0].carrier is Carrier.TRAIN:
            found = found.reshape(steps, *x.shape)
            np.testing.assert_array_equal(found[:, clear], spikes[:, clear])
            found = found.sum(axis=0)
        np.testing.assert_array_equal(found[clear], spikes.sum(axis=0)[clear])
        np.testing.assert_allclose(y[clear], trains.mean(axis=0)[clear], rtol=1e-5)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "counts"])
def test_train_of_a_static_current_opens_with_silence(
    bench: Any, spiking: Spiking, form: str
) -> None:
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(1)}
    proto, _ = spiking(ONE, weights, [bench.layer([4.0], [0.0], [0.0])], 4, form)
    _, found = bench.run(proto, np.array([[0.0], [1.0], [3.0], [9.0]], np.float32))
    np.testing.assert_array_equal(
        found.reshape(4, 4).T, [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    )


@pytest.mark.parametrize("steps", STEPS)
def test_conversion_matrix_of_the_file_is_equation_8_with_rows_rescaled(
    bench: Any, spiking: Spiking, steps: int
) -> None:
    first = bench.layer([1.0] * 3, [0.0] * 3, [0.0] * 3)
    second = bench.layer([1.0] * 4, [0.0] * 4, [0.0] * 4)
    proto, _ = spiking(MLP, mlp_weights(), [first, second], steps, "matmul")
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    node = next(n for n in proto.graph.node if n.op_type == "ParallelSpikes")
    matrix, steps_of_rows = arrays[node.input[5]], arrays[node.input[6]].ravel()
    assert matrix.shape == (steps, steps)
    rows = [[Fraction(float(v)) / Fraction(int(k)) for v in row] for row, k in
            zip(matrix, steps_of_rows, strict=True)]  # fmt: skip
    assert rows == bench.conversion_matrix(steps).tolist()


@pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 18, 21])
@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_of_the_dialect(bench: Any, spiking: Spiking, opset: int, form: str) -> None:
    # Clip, Where and GreaterOrEqual changed or came at opsets 11, 9 and 12.
    text = MLP.replace("Clip(b, zero, one)", "Relu(b)").replace("Clip(e, zero, one)", "Relu(e)")
    weights = {k: v for k, v in mlp_weights().items() if k not in ("zero", "one")}
    steps = 4
    first = bench.layer([4.0, 8.0, 2.0], [0.5, -0.25, 0.0], [0.0, 4.0, -1.0])
    second = bench.layer([2.0, 1.0, 8.0, 0.5], [0.0, 0.25, -0.5, 0.125], [1.0, 0.0, -2.0, 0.25])
    x = (np.random.default_rng(9).integers(-16, 17, (3, 4)) / 4).astype(np.float32)
    i1 = np.repeat((x.astype(np.float64) @ weights["w1"] + weights["b1"])[None], steps, axis=0)
    s1, y1 = bench.parallel_neuron(i1, first, 1)
    s2, y2 = bench.parallel_neuron(y1 @ weights["w2"] + weights["b2"], second, 1)

    proto, neurons = spiking(
        text, weights, [first, second], steps, form, opset=opset, data=[{"x": x}]
    )
    assert [o.version for o in proto.opset_import if o.domain == ""] == [opset]
    y, found1, found2 = bench.run(proto, x)
    bench.check(found1, s1, neurons[0])
    bench.check(found2, s2, neurons[1])
    np.testing.assert_allclose(y, (y2 @ weights["w3"]).mean(axis=0), rtol=1e-6, atol=1e-6)
