"""The QCFS activation as a torch module: train with it, then export to plain ONNX operators.

Quantisation clip-floor-shift (Bu et al., ICLR 2022; eq. 5 of Hao et al., ICML 2025)::

    u = z / theta * T + 1/2
    y = theta / T * Clip(Floor(u), 0, T)

with T levels and one learnable threshold theta per layer. It is the mean output
over T steps of a spiking neuron with threshold theta, so a network trained with
it loses nothing when it is converted at T time-steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from graphpass_runtime.errors import ModelError, OptionError

INITIAL_THRESHOLD = 8.0  # the released QCFS code's start


class _StraightThroughFloor(torch.autograd.Function):
    """Floor with the gradient of the identity, so that training sees through it.

    Both exporters trace the forward into one Floor node; the usual detach trick,
    ``u + (floor(u) - u).detach()``, would leave a Sub and an Add in the file.
    """

    @staticmethod
    def forward(_ctx: Any, potential: torch.Tensor) -> torch.Tensor:
        return torch.floor(potential)

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class QCFS(nn.Module):
    """The QCFS activation with a learnable threshold (eq. 5).

    Input and output have the same floating dtype and shape, any shape. Ties go up:
    a current of exactly ``(k - 1/2) theta / T`` gives k levels, not the even one.

    Gradients, with the floor straight through: ``dy/dz`` is 1 where
    ``0 <= Floor(u) <= T`` and 0 outside; ``dy/dtheta`` is ``n/T - z/theta`` inside,
    1 above and 0 below, where n is the clipped floor.

    Attributes:
        levels: T, the number of steps of the staircase above zero.
        threshold: theta, scalar parameter.

    Args:
        levels: T, at least 1.
        threshold: where theta starts, in the units of the current; positive.

    Raises:
        OptionError: `levels` or `threshold` is out of range.
    """

    def __init__(self, levels: int, threshold: float = INITIAL_THRESHOLD) -> None:
        super().__init__()
        if levels < 1:
            raise OptionError(f"QCFS needs at least 1 level, not {levels}")
        if not (math.isfinite(threshold) and threshold > 0):
            raise OptionError(f"QCFS needs a positive threshold, not {threshold}")
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        """Mean output of the neuron for a mean input current of any shape."""
        potential = current / self.threshold * self.levels + 0.5
        floor: torch.Tensor = _StraightThroughFloor.apply(potential)  # type: ignore[no-untyped-call]
        # Float bounds: with integers the legacy exporter puts a Cast before each.
        count = torch.clamp(floor, 0.0, float(self.levels))
        return count / self.levels * self.threshold

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"levels={self.levels}, threshold={self.threshold.item():.4g}"


def replace_activations(
    module: nn.Module, levels: int, threshold: float = INITIAL_THRESHOLD
) -> nn.Module:
    """Swap every ``nn.ReLU`` for a `QCFS`, in place; call it before moving to a device.

    A ReLU object that is used in several places becomes one QCFS used in as many:
    one threshold for all of them. Calls of ``torch.relu`` are not modules and stay.

    Args:
        module: the network; changed in place, unless it is itself a ReLU.
        levels: T of every QCFS.
        threshold: where every theta starts.

    Returns:
        The network.

    Raises:
        ModelError: the network has no ReLU module.
        OptionError: `levels` or `threshold` is out of range.
    """
    swapped: dict[nn.Module, QCFS] = {}

    def swap(old: nn.Module) -> nn.Module:
        if not isinstance(old, nn.ReLU):
            return old
        if old not in swapped:
            swapped[old] = QCFS(levels, threshold).train(old.training)
        return swapped[old]

    for parent in list(module.modules()):
        # _modules, since named_children() lists a shared child under its first name only.
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = swap(child)
    module = swap(module)
    if not swapped:
        raise ModelError(
            "no nn.ReLU module to replace by QCFS",
            where=type(module).__name__,
            remedy="use nn.ReLU modules where the network calls torch.relu",
        )
    return module
