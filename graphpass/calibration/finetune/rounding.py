"""The spike count of DA-QCFS, with a gradient that goes straight through the rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphpass.neurons import Ties


def spike_count(charge: Tensor, levels: float, ties: Ties) -> Tensor:
    """Clip(Floor(charge + 1/2), 0, T); with ties to even, Clip(Round(charge), 0, T).

    Backwards it is Clip(charge, 0, T): the gradient is 1 between the first level and the
    last, and 0 where the neuron is silent or saturated (Bengio et al., 2013).
    """
    # Torch leaves `apply` without types.
    apply: Callable[[Tensor, float, Ties], Tensor] = _SpikeCount.apply
    return apply(charge, levels, ties)


class _SpikeCount(torch.autograd.Function):
    """In one piece, since neurons take longer than convolutions where memory is slow."""

    @staticmethod
    def forward(ctx: Any, charge: Tensor, levels: float, ties: Ties) -> Tensor:
        ctx.save_for_backward(charge)
        ctx.levels = levels
        whole = (charge + 0.5).floor_() if ties is Ties.HALF_UP else charge.round()
        return whole.clamp_(0.0, levels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (charge,) = ctx.saved_tensors
        through = torch.ops.aten.hardtanh_backward(gradients[0], charge, 0.0, ctx.levels)
        return through, None, None
