"""Training-free calibration that beats maximum thresholds at few time-steps.

1. One pass of the reference net records, per channel, the distribution, mean and spread of
   every current (where a MaxPool follows the neuron, of the pooled current).
2. Thresholds between the one of least squared error and the maximum, amplitudes by least
   squares (`threshold_rules`). How far between is chosen by the error of the net's own
   output on some of the images, without labels: rare large currents matter more to the
   output than to the squared error of a layer, the more so the more steps there are.
3. One pass of the spiking net matches the mean and spread of every current to the
   reference, layer after layer inside one graph (`matching`); averages over batches are
   frozen into threshold and shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass.calibration import matching, recording, threshold_rules
from graphpass.calibration.matching import Moments
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.recording import Recording
from graphpass.calibration.threshold_rules import Vector
from graphpass.model import Model
from graphpass.neurons import Neuron

# 0 is the threshold of least squared error, 1 the maximum; in between, geometrically.
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
TRIAL_SAMPLES = 32  # images that the blend is chosen on


def calibrate(model: Model, measuring: Measuring) -> tuple[tuple[Neuron, ...], dict[str, Any]]:
    """Find threshold, shift and amplitude of every neuron.

    Args:
        model: stage 2.
        measuring: data, and how to run a graph; moments of currents are taken per batch.

    Returns:
        The neurons, and a summary in plain JSON values: the blend that was chosen, the
        relative squared error of the output for every blend (where it did not overflow),
        samples, and the cost in passes over them, trials counted by their share.
    """
    seen = recording.record(model, measuring, TRIAL_SAMPLES)
    shares = {
        name: threshold_rules.squared_error(seen.histograms[name], neuron.levels)
        for name, neuron in seen.neurons.items()
    }
    matcher = matching.Matcher(model, seen.neurons, measuring)
    errors: dict[float, float] = {}
    advance = measuring.progress("choosing thresholds", len(BLENDS) * seen.kept)
    for blend in BLENDS:
        errors[blend] = matcher.output_error(_neurons(seen, shares, blend), seen.trials)
        advance(seen.kept)
    best = min(reversed(BLENDS), key=lambda blend: errors[blend])
    chosen = _neurons(seen, shares, best)
    moments = matcher.match(chosen, _paired(measuring, seen))
    return tuple(_frozen(n, *moments[n.name]) for n in chosen.values()), {
        "batch": measuring.batch,
        "samples": seen.samples,
        "blend": best,
        "errors": {str(b): float(f"{e:.4g}") for b, e in errors.items() if math.isfinite(e)},
        "passes": round(2 + len(BLENDS) * seen.kept / max(1, seen.samples), 2),
    }


def _neurons(seen: Recording, shares: dict[str, Vector], blend: float) -> dict[str, Neuron]:
    """Neurons with blended thresholds and least-squares amplitudes, no shift yet."""
    result = {}
    for name, neuron in seen.neurons.items():
        histogram, levels = seen.histograms[name], neuron.levels
        share = shares[name] ** (1.0 - blend)
        amplitude = threshold_rules.amplitude(histogram, share, levels)
        threshold = (share * histogram.bound).astype(np.float32)
        result[name] = replace(neuron, threshold=threshold, amplitude=amplitude.astype(np.float32))
    return result


def _frozen(neuron: Neuron, wanted: Moments, own: Moments) -> Neuron:
    """Fold z' = gain (z - mean) + wanted mean into threshold and shift.

    T (z' ) / theta = T (z + wanted/gain - mean) / (theta/gain).
    """
    gain = matching.gain(wanted, own)
    threshold = (neuron.threshold / gain).astype(np.float32)
    shift = (wanted.mean / gain - own.mean).astype(np.float32)
    # Currents whose squares overflow float32 have no spread to match.
    known = np.isfinite(threshold) & np.isfinite(shift)
    return replace(
        neuron,
        threshold=np.where(known, threshold, neuron.threshold),
        shift=np.where(known, shift, np.float32(0)),
    )


def _paired(
    measuring: Measuring, seen: Recording
) -> Iterator[tuple[dict[str, NDArray[Any]], matching.RawMoments]]:
    """The batches that the reference's moments were kept for."""
    for index, feeds in enumerate(measuring.batches("matching currents")):
        if index in seen.paired:
            yield feeds, seen.paired[index]
