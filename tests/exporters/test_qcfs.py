"""QCFS against a numpy version of eq. 5 written from the paper, in float64."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the QCFS module needs torch")

from graphpass_exporters.qcfs import QCFS, replace_activations  # noqa: E402
from graphpass_runtime.errors import ModelError, OptionError  # noqa: E402


def reference(z, theta, levels):
    """Count the levels that z has reached: (k - 1/2) theta / T for k = 1..T."""
    crossings = (np.arange(1, levels + 1) - 0.5) * theta / levels
    count = (np.asarray(z, np.float64)[..., None] >= crossings).sum(axis=-1)
    return theta * count / levels


def run(z, theta, levels):
    with torch.no_grad():
        return QCFS(levels, theta)(torch.from_numpy(np.asarray(z, np.float32))).numpy()


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("theta", [0.37, 1.0, 2.0, 8.0])
def test_matches_numpy_away_from_ties(levels, theta):
    z = np.random.default_rng(levels).uniform(-theta, 2 * theta, 4000).astype(np.float32)
    u = z.astype(np.float64) * levels / theta + 0.5
    z = z[np.abs(u - np.rint(u)) > 1e-4]
    np.testing.assert_allclose(run(z, theta, levels), reference(z, theta, levels), rtol=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("theta", [0.5, 2.0, 8.0])
def test_ties_go_up(levels, theta):
    # All powers of two, so that every half step is exact in float32.
    steps = np.arange(-2, levels + 3)
    z = (steps - 0.5) * theta / levels
    got = run(z, theta, levels)
    np.testing.assert_array_equal(got, reference(z, theta, levels))
    np.testing.assert_array_equal(got, np.clip(steps, 0, levels) * theta / levels)
    below = run(z - 1e-3 * theta / levels, theta, levels)
    np.testing.assert_array_equal(below, np.clip(steps - 1, 0, levels) * theta / levels)


def test_gradient_goes_straight_through_the_floor():
    qcfs = QCFS(4, 2.0)
    #            below   first level   half way   top level, above theta   above
    z = torch.tensor([-1.0, 0.3, 1.1, 2.2, 3.0], requires_grad=True)
    qcfs(z).sum().backward()
    np.testing.assert_array_equal(z.grad, [0.0, 1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("z", [-1.0, 0.3, 1.1, 2.2, 3.0])
def test_gradient_of_the_threshold(z):
    qcfs = QCFS(4, 2.0)
    qcfs(torch.tensor([z])).backward()
    count = np.clip(np.floor(z * 4 / 2.0 + 0.5), 0, 4)
    inside = -0.25 <= z < 2.25
    expected = count / 4 - z / 2.0 * inside
    np.testing.assert_allclose(qcfs.threshold.grad, expected, atol=1e-6)


def test_one_learnable_scalar_that_starts_at_eight():
    (threshold,) = QCFS(4).parameters()
    assert threshold.shape == ()
    assert threshold.item() == 8.0
    assert repr(QCFS(4)) == "QCFS(levels=4, threshold=8)"


@pytest.mark.parametrize(("levels", "theta"), [(0, 1.0), (4, 0.0), (4, -1.0), (4, float("nan"))])
def test_refuses_impossible_parameters(levels, theta):
    with pytest.raises(OptionError, match="QCFS needs"):
        QCFS(levels, theta)


class Shared(torch.nn.Module):
    """One ReLU under two names, another in a nested module, and a ReLU6."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.ReLU(inplace=True)
        self.second = self.first
        self.nested = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU6())


def test_replace_activations_keeps_sharing_and_other_modules():
    network = Shared().eval()
    assert replace_activations(network, 4, threshold=3.0) is network
    assert isinstance(network.first, QCFS)
    assert network.first is network.second
    assert isinstance(network.nested[0], QCFS)
    assert network.nested[0] is not network.first
    assert isinstance(network.nested[1], torch.nn.ReLU6)
    assert [p.item() for p in network.parameters()] == [3.0, 3.0]
    assert not network.first.training


def test_replace_activations_of_a_bare_relu_returns_the_new_root():
    assert isinstance(replace_activations(torch.nn.ReLU(), 4), QCFS)


def test_replace_activations_refuses_a_network_without_relu():
    with pytest.raises(ModelError, match=r"no nn\.ReLU module"):
        replace_activations(torch.nn.Linear(2, 2), 4)


def test_module_can_be_copied_and_saved():
    qcfs = QCFS(4, 3.0)
    twin = copy.deepcopy(qcfs)
    twin.load_state_dict(qcfs.state_dict())
    assert twin.threshold.item() == 3.0
