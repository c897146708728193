"""Networks put together from the parts of a conversion, where no option reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from graphpass import Session, stages
from graphpass.calibration import optimal, recording
from graphpass.calibration.measuring import Measuring, Training
from graphpass.calibration.rules import RULES
from graphpass.model import Model, load, save
from graphpass.neurons import Neuron
from graphpass.running import open_session
from graphpass_runtime.model_data import open_model_data


@dataclass(frozen=True)
class Composition:
    """A model with thresholds, and what to calibrate it on.

    Attributes:
        ann: the ANN.
        clip: the stage file 1-clip.onnx that was made of it.
        data: calibration images.
        samples: so many of them at most.
    """

    ann: Path
    clip: Path
    data: Path
    samples: int

    def stage2(self, levels: int) -> tuple[Model, Measuring]:
        """Stage 2 with so many levels, and how to measure it."""
        model = load(self.clip)
        stages.quantise(model, levels)
        inputs = Session(self.clip).inputs
        data = open_model_data(self.data, inputs, [(self.ann, None)], samples=self.samples)
        measuring = Measuring(
            data,
            batch=RULES["optimal"].batch_for(stages.largest_tensor(model)),
            passes=1,
            open_session=partial(open_session, file_order=True),
            progress=lambda _title, _samples: lambda _done: None,
            training=Training(epochs=1, seed=0, threads=None),
        )
        return model, measuring


def write(model: Model, neurons: Mapping[str, Neuron], path: Path) -> Path:
    """Stage 2 with these neurons, as `counts`; the model is used up."""
    stages.calibrate(model, "composed", lambda _: (tuple(neurons.values()), {}))
    stages.emit(model, "counts")
    save(model, path)
    return path


def regular(neurons: Mapping[str, Neuron]) -> dict[str, Neuron]:
    """With the amplitudes theta/T of a uniform quantiser."""
    return {
        name: replace(neuron, amplitude=(neuron.threshold / np.float32(neuron.levels)))
        for name, neuron in neurons.items()
    }


def write_low_bit(composition: Composition, steps: int, path: Path) -> Path:
    """Plain quantisation of the activations to the bits that T + 1 counts need.

    Post-training quantisation as its textbooks have it: 2^bits - 1 levels above zero, uniform,
    thresholds of least squared error per channel, no amplitudes and no matching; weights stay
    float32.
    """
    levels = 2 ** math.ceil(math.log2(steps + 1)) - 1
    model, measuring = composition.stage2(levels)
    seen = recording.record(model, measuring, 0)
    neurons = optimal.with_thresholds(seen, optimal.threshold_shares(seen, "mse"))
    return write(model, regular(neurons), path)
