"""Neurons as a network was trained with them: QCFS of stage 0, or a quantiser.

y = theta/T Clip(Floor(T x / theta + 1/2), 0, T): eq. 5 of the paper with psi = theta/2. A
quantiser has Round(T x / theta) instead, which takes halves to even counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass_runtime.neuron import Ties


def node(
    model: Model,
    current: gs.Tensor,
    output: gs.Tensor,
    threshold: NDArray[Any],
    levels: int,
    ties: Ties,
) -> gs.Node:
    """A new `graphpass::QCFS` from `current` to `output`; the caller appends it.

    Args:
        model: gets two initializers.
        current: what it reads.
        output: what it writes; initializers are named after it.
        threshold: theta, in a shape that broadcasts against the current.
        levels: T.
        ties: half up for QCFS, half to even for quantisers.
    """
    return gs.Node(
        dialect.with_ties(dialect.QCFS, ties),
        name=output.name,
        domain=dialect.DOMAIN,
        inputs=[
            current,
            editing.constant(model, f"{output.name}/threshold", np.asarray(threshold, np.float32)),
            editing.constant(model, f"{output.name}/levels", np.array(levels, np.float32)),
        ],
        outputs=[output],
    )
