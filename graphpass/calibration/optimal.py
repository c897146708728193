"""Training-free calibration that beats maximum thresholds at few time-steps.

1. One pass of the reference net records, per channel, the distribution, mean and spread of
   every current on a grid (`sampling`; where a MaxPool follows the neuron, of the pooled
   current).
2. Thresholds by a rule, amplitudes by least squares (`threshold_rules`). The rule `blend`,
   unless another one is asked for, lies between the threshold of least squared error and
   the maximum. How far between is chosen by the error of the net's own output on some of
   the images, without labels: rare large currents matter more to the output than to the
   squared error of a layer, the more so the more steps there are. Where few currents were
   recorded, thresholds leave room for larger ones (`tails`), beyond the maximum; where the
   network itself bounds them, channels that fired rarely follow their layer (`shrinkage`).
3. The spiking net matches the mean and spread of every current to the reference, layer after
   layer inside one graph (`matching`), on ten to nineteen of the batches, more where they are
   small, those of the trials among them; averages over batches are frozen into threshold and
   shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphpass.calibration import matching, recording, tails, threshold_rules
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.moments import Moments, RawMoments, Vector, averaged
from graphpass.calibration.recording import Recording
from graphpass.model import Model
from graphpass.neurons import Neuron
from graphpass_runtime.output_error import energy, squared_error

#: The rule of thresholds that is chosen by trial, and the fixed ones.
BLEND = "blend"
THRESHOLDS = (BLEND, *threshold_rules.RULES)

# 0 is the threshold of least squared error, 1 the maximum; in between, geometrically. Of the
# benchmark's networks, on training images, 0 to 0.25 were best but for MobileNetV2 at T = 16
# (0.5): the steps are finer there.
BLENDS = (0.0, 0.125, 0.25, 0.5, 1.0)
TRIAL_SAMPLES = (32, 64)  # images that the blend is chosen on: at least, and at most


def calibrate(
    model: Model, measuring: Measuring, threshold: str = BLEND
) -> tuple[tuple[Neuron, ...], dict[str, Any]]:
    """Find threshold, shift and amplitude of every neuron.

    Args:
        model: stage 2.
        measuring: data, and how to run a graph; moments of currents are taken per batch.
        threshold: one of `THRESHOLDS`.

    Returns:
        The neurons, and a summary in plain JSON values: samples, how often the net ran over
        them (on some of them, by their share), and of a blend the one that was chosen and the
        relative squared error of the output for every blend that was tried (where it did not
        overflow).
    """
    blends = threshold == BLEND
    seen = recording.record(model, measuring, _trials_of(measuring.data.samples) if blends else 0)
    matcher = matching.Matcher(model, seen.neurons, measuring)
    shares = threshold_shares(seen, "mse" if blends else threshold)
    summary: dict[str, Any] = {
        "threshold": threshold,
        "batch": measuring.batch,
        "samples": seen.samples,
    }
    if blends:
        best, errors = best_blend(seen, shares, matcher, measuring)
        finite = {str(b): float(f"{e:.4g}") for b, e in errors.items() if math.isfinite(e)}
        summary |= {"blend": best.blend, "errors": finite}
    else:
        best, errors = Judged(with_thresholds(seen, shares)), {}
    own = own_moments(seen, best, matcher, measuring)
    paired = sum(seen.sizes.values())  # run once, and the trials once more for each other blend
    ran = seen.samples + paired + max(0, len(errors) - 1) * seen.kept
    summary["passes"] = round(ran / max(1, seen.samples), 2)
    wanted = seen.moments()
    neurons = best.neurons.values()
    return tuple(matching.matched(n, wanted[n.name], own[n.name]) for n in neurons), summary


def _trials_of(samples: int | None) -> int:
    """An eighth of the images, so that the trials cost less than a pass."""
    fewest, most = TRIAL_SAMPLES
    return most if samples is None else min(most, max(fewest, samples // 8))


def threshold_shares(seen: Recording, rule: str) -> dict[str, Vector]:
    """Thresholds by one of `threshold_rules.RULES`, as shares of the largest currents."""
    shares, moments = {}, seen.moments()
    for name, neuron in seen.neurons.items():
        histogram = seen.histograms[name]
        unseen = tails.unseen(histogram, seen.fractions[name]) if name in seen.unbounded else None
        shares[name] = threshold_rules.RULES[rule](histogram, moments[name], neuron.levels, unseen)
    return shares


@dataclass(frozen=True, eq=False)
class Judged:
    """Thresholds, and what the trials say of them.

    Attributes:
        neurons: with these thresholds.
        blend: between the threshold of least squared error and the maximum.
        error: squared error of the outputs relative to the reference's.
        moments: of the net's own currents, on each trial.
    """

    neurons: Mapping[str, Neuron]
    blend: float = BLENDS[0]
    error: float = math.inf
    moments: Mapping[int, RawMoments] = field(default_factory=dict)


def best_blend(
    seen: Recording,
    shares: Mapping[str, Vector],
    matcher: matching.Matcher,
    measuring: Measuring,
) -> tuple[Judged, dict[float, float]]:
    """The blend that errs least on the trials, and how much each errs.

    The error falls towards the best blend and rises behind it: where it falls no more, the
    trials end.
    """
    errors: dict[float, float] = {}
    best = Judged({})
    advance = measuring.progress("choosing thresholds", len(BLENDS) * seen.kept)
    for blend in BLENDS:
        found = _judge(blend, with_thresholds(seen, blended(shares, blend)), seen, matcher)
        errors[blend] = found.error
        advance(seen.kept)
        if math.isfinite(best.error) and found.error >= best.error:
            break
        best = found
    advance((len(BLENDS) - len(errors)) * seen.kept)
    return best, errors


def _judge(
    blend: float, neurons: Mapping[str, Neuron], seen: Recording, matcher: matching.Matcher
) -> Judged:
    error = scale = 0.0
    moments = {}
    for number, trial in seen.trials.items():
        outputs, moments[number] = matcher.run(neurons, trial.feeds, seen.paired[number])
        with np.errstate(over="ignore", invalid="ignore"):  # judged below
            for found, expected in zip(outputs, trial.outputs, strict=True):
                error += squared_error(found, expected)
                scale += energy(expected)
    share = error / (scale or 1.0)
    return Judged(neurons, blend, share if math.isfinite(share) else math.inf, moments)


def blended(shares: Mapping[str, Vector], blend: float) -> dict[str, Vector]:
    """These thresholds, so far on the way to the maximum, geometrically.

    Those above it stay: they are for currents that no trial can show.
    """
    return {
        name: np.where(share < 1.0, share ** (1.0 - blend), share) for name, share in shares.items()
    }


def with_thresholds(seen: Recording, shares: Mapping[str, Vector]) -> dict[str, Neuron]:
    """Neurons with these thresholds and least-squares amplitudes, no shift yet."""
    result = {}
    for name, neuron in seen.neurons.items():
        histogram, share = seen.histograms[name], shares[name]
        amplitude = threshold_rules.amplitude(histogram, share, neuron.levels)
        threshold = (share * histogram.bound).astype(np.float32)
        result[name] = replace(neuron, threshold=threshold, amplitude=amplitude.astype(np.float32))
    return result


def own_moments(
    seen: Recording, judged: Judged, matcher: matching.Matcher, measuring: Measuring
) -> dict[str, Moments]:
    """Moments of the net's own currents behind matched layers, over the paired batches.

    Args:
        seen: what the reference had on these batches.
        judged: neurons, and what their currents have on some of these batches already.
        matcher: runs the net.
        measuring: gives the batches.
    """
    found = dict(judged.moments)
    left = {number: size for number, size in seen.sizes.items() if number not in found}
    for number, feeds in measuring.chosen_batches("matching currents", left):
        _, found[number] = matcher.run(judged.neurons, feeds, seen.paired[number])
    return averaged(found[number] for number in sorted(found))
