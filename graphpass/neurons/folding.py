"""How T time-steps lie folded in the batch axis: `[T*N, ...]`, time outermost."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model
from graphpass.timeflow import Shape, TimeType
from graphpass_runtime.errors import ModelError
from graphpass_runtime.neuron import Neuron


def slots(model: Model) -> int:
    """T of the file: how many slots its trains have. A neuron fires in its last `levels`."""
    assert model.record is not None, "stage 3 has a record"
    assert model.record.steps is not None, "stage 3 has a T"
    return model.record.steps


def post_threshold(model: Model, neuron: Neuron, amplitude: gs.Constant, slots: int) -> gs.Constant:
    """What the neuron functions multiply by `levels`, so that the mean over slots is right.

    They give a spike levels * amplitude, which is the post-threshold where every slot can
    fire. Its mean over all slots is to be the amplitude: slots * amplitude is needed.
    """
    if neuron.levels == slots:
        return amplitude
    ratio = np.float64(slots) / neuron.levels
    scaled = np.asarray(amplitude.values * ratio, np.float32)
    return editing.constant(model, f"{neuron.name}/amplitude_over_{slots}", scaled)


def split(model: Model, name: str, shape: Shape, kind: TimeType, steps: int) -> gs.Constant:
    """Reshape target `[..., steps, -1]` that gives time an axis of its own."""
    target = np.array([*_ahead(model, name, shape, kind), steps, -1], np.int64)
    return editing.constant(model, f"{name}/split_by_{steps}", target)


def unfolded(model: Model, name: str, shape: Shape, kind: TimeType) -> list[gs.Constant]:
    """What rebuilds the shape with a batch axis of another size.

    Two vectors: the sizes up to the batch axis, with -1 for the batch itself, and the
    positions of the axes behind it, whose sizes are read at run time.
    """
    assert kind.batch_axis is not None, "only tensors that carry the batch are folded"
    lead = np.array([*_ahead(model, name, shape, kind), -1], np.int64)
    rest = np.arange(kind.batch_axis + 1, len(shape), dtype=np.int64)
    return [
        editing.constant(model, f"{name}/lead", lead),
        editing.constant(model, f"{name}/rest", rest),
    ]


def _ahead(model: Model, name: str, shape: Shape, kind: TimeType) -> list[int]:
    ahead = shape[: kind.batch_axis]
    if not all(isinstance(size, int) for size in ahead):
        raise ModelError(
            f"tensor '{name}' has axes of unknown size before the batch axis",
            where=model.name,
            remedy="export the model with the batch on axis 0",
        )
    return ahead
