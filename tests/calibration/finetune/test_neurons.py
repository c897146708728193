"""DA-QCFS that learns: its values by the definition, its gradients by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from graphpass.calibration.finetune.neurons import LearnedNeuron, Reference  # noqa: E402
from graphpass.neurons import Neuron, Ties  # noqa: E402

T = 4


@pytest.fixture
def neuron() -> Neuron:
    return Neuron(
        "n",
        threshold=np.array([1.0, 2.0], np.float32),
        shift=np.array([0.0, 0.25], np.float32),
        amplitude=np.array([0.5, 0.25], np.float32),
        levels=T,
        channel_axis=1,
    )


def test_output_is_that_of_the_definition(neuron):
    # Multiples of 1/8 lie on the thresholds and between them, without rounding.
    current = (np.arange(-8, 24, dtype=np.float32) / 8).reshape(1, 1, -1).repeat(2, axis=1)
    threshold, shift, amplitude = (
        a.reshape(2, 1) for a in (neuron.threshold, neuron.shift, neuron.amplitude)
    )
    count = np.clip(np.floor(T * (current + shift) / threshold + 0.5), 0, T)
    found = LearnedNeuron(neuron, rank=3)(torch.from_numpy(current))
    np.testing.assert_array_equal(found.detach().numpy(), count * amplitude)


def test_a_quantiser_takes_halves_to_even_counts(neuron):
    even = replace(neuron, ties=Ties.HALF_EVEN, shift=np.zeros(2, np.float32))
    current = torch.tensor([[0.125, 0.25], [0.375, 0.75], [0.625, 1.25]])
    found = LearnedNeuron(even, rank=2)(current).detach() / torch.tensor(even.amplitude)
    np.testing.assert_array_equal(found, [[0, 0], [2, 2], [2, 2]])
    trained = Reference(replace(even, trained_levels=4), rank=2)(current)
    np.testing.assert_array_equal(trained, found * torch.tensor(even.threshold) / 4)


@pytest.mark.parametrize(
    ("current", "passes", "threshold"),
    [
        (-0.5, 0.0, 0.0),  # silent
        (0.3, 1.0, 1 - 1.2),  # u = 1.2 counts as 1: round(u) - u
        (0.45, 1.0, 2 - 1.8),
        (1.5, 0.0, 4.0),  # saturated: T
    ],
)
def test_gradients_are_straight_through_and_those_of_lsq(neuron, current, passes, threshold):
    learned = LearnedNeuron(neuron, rank=2)
    x = torch.tensor([[current, 0.0]], requires_grad=True)
    learned(x)[0, 0].backward()
    amplitude, gain = 0.5, T / 1.0
    assert x.grad[0, 0].item() == pytest.approx(passes * amplitude * gain)
    assert learned.shift.grad[0].item() == pytest.approx(passes * amplitude * gain)
    assert learned.log_threshold.grad[0].item() == pytest.approx(amplitude * threshold, abs=1e-5)
    count = min(max(np.floor(gain * current + 0.5), 0), T)
    assert learned.log_amplitude.grad[0].item() == pytest.approx(amplitude * count)


def test_without_learning_the_neuron_comes_back_bit_by_bit(neuron):
    found = LearnedNeuron(neuron, rank=4).learned()
    for key in ("threshold", "shift", "amplitude"):
        np.testing.assert_array_equal(getattr(found, key), getattr(neuron, key))


def test_learned_thresholds_and_amplitudes_stay_positive(neuron):
    learned = LearnedNeuron(neuron, rank=2)
    with torch.no_grad():
        learned.log_threshold -= 5.0
        learned.log_amplitude -= 5.0
        learned.shift += 1.0
    found = learned.learned()
    assert (found.threshold > 0).all()
    assert (found.amplitude > 0).all()
    np.testing.assert_allclose(found.shift, neuron.shift + neuron.threshold, rtol=1e-6)


def test_reference_is_a_clip_or_the_trained_qcfs(neuron):
    current = torch.tensor([[-1.0, 0.6, 5.0]]).T.repeat(1, 2)
    clipped = Reference(neuron, rank=2)(current)
    np.testing.assert_allclose(clipped, [[0, 0], [0.6, 0.6], [1, 2]])
    stepped = Reference(replace(neuron, trained_levels=2), rank=2)(current)
    np.testing.assert_allclose(stepped, [[0, 0], [0.5, 1], [1, 2]])
