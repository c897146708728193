"""Stage 4, form `counts-cpu`: rounding goes into the convolution, the clamp into a second one.

ONNX Runtime's CPU kernels keep activations in a blocked layout. A Floor is not among the
operators that work there, so that each one costs two reorderings beside its own pass.
HardSigmoid and Clip are: as the activation of a convolution they cost nothing.
"""

from __future__ import annotations

import numpy as np

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.passes.base import Pass

_RANK = 4  # the blocked layout is for images


class FuseRounding(Pass):
    """SpikeCount becomes RoundedCount: HardSigmoid, a pointwise convolution, and a clamp.

    HardSigmoid with slope 2^-24 and intercept 1/2 - 2^-25 gives 1/2 + (u - 1/2) 2^-24.
    Float32 has steps of 2^-24 from 1/2 on, so this sum itself rounds u - 1/2 to a whole
    number, which is Floor(u). One depthwise convolution by 1 takes that number out
    again, exactly, because 2^24 is a power of two. Only float32 works like this. It rounds
    halves to even: `CountSpikes` lifts them where they are to go up.
    """

    def apply(self, model: Model) -> int:
        """Neurons on image-like tensors; the others keep their Floor."""
        assert model.record is not None, "neurons live in the record"
        neurons = {neuron.spikes: neuron for neuron in model.record.neurons}
        count = 0
        for node in model.graph.nodes:
            if not editing.is_dialect(node, dialect.SPIKE_COUNT, dialect.NEAREST_COUNT):
                continue
            shape, name = node.inputs[0].shape, node.outputs[0].name
            if (
                neurons[name].channel_axis != 1
                or len(shape or ()) != _RANK
                or not isinstance(shape[1], int)
            ):
                continue
            weight = np.full((shape[1], 1, 1, 1), 2.0**24, np.float32)
            bias = np.full(shape[1], -(2.0**23), np.float32)
            node.op = dialect.with_ties(dialect.ROUNDED_COUNT, neurons[name].ties)
            node.attrs["channels"] = shape[1]
            node.inputs += [
                editing.constant(model, f"{name}/unit", weight),
                editing.constant(model, f"{name}/origin", bias),
            ]
            count += 1
        return count
