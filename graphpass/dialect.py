"""The ONNX domain ``graphpass``: local functions that every stage is written in.

Each function is flat, made of standard operators without control flow, so that
ONNX Runtime inlines it, CUDA graphs stay possible, and Netron shows one node per
neuron layer that opens to its subgraph. A body is written for the model's own
opset; where operators changed between opsets, `_Spelling` picks the words.

Every function that spikes has three outputs: what flows on, the membrane potential u
in units of thresholds, and the spikes. The last two cost nothing when unused,
since both are intermediate results anyway.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.parser

DOMAIN = "graphpass"
VERSION = 1

CLIP_RELU = "ClipReLU"
QCFS = "QCFS"
DAQCFS = "DAQCFS"
SPIKE_COUNT = "SpikeCount"
PARALLEL_SPIKES = "ParallelSpikes"
PARALLEL_SPIKES_STATIC = "ParallelSpikesStatic"
REPEAT_IN_TIME = "RepeatInTime"
MEAN_OVER_TIME = "MeanOverTime"

#: Functions that spike.
SPIKING = frozenset({DAQCFS, SPIKE_COUNT, PARALLEL_SPIKES, PARALLEL_SPIKES_STATIC})
#: Functions that spike, or will in a later stage.
NEURONS = SPIKING | {CLIP_RELU, QCFS}

_HALF_AND_ZERO = """
    half = Constant <value = float {0.5}> ()
    zero = Constant <value = float {0.0}> ()
"""

# u = T (x + shift) / theta + 1/2, evaluated as x * gain + offset with both constants
# folded when the session is made.
_POTENTIAL = """
    gain = Div (levels, threshold)
    shifted = Mul (shift, gain)
    offset = Add (shifted, half)
    scaled = Mul (x, gain)
    potential = Add (scaled, offset)
"""

# n = Clip(Floor(u), 0, T): half-way values fire, as in QCFS.
_COUNT = """
    whole = Floor (potential)
    {clip}
    y = Mul (spikes, amplitude)
"""

_SIGNATURES = {
    CLIP_RELU: "(x, threshold) => (y)",
    QCFS: "(x, threshold, levels) => (y)",
    DAQCFS: "(x, threshold, shift, amplitude, levels) => (y, potential, spikes)",
    SPIKE_COUNT: "(x, threshold, shift, amplitude, levels) => (y, potential, spikes)",
    PARALLEL_SPIKES: (
        "(x, threshold, shift, amplitude, levels, conversion, steps, split)"
        " => (y, potential, spikes)"
    ),
    PARALLEL_SPIKES_STATIC: (
        "(x, threshold, shift, amplitude, levels, steps, split, lead, rest)"
        " => (y, potential, spikes)"
    ),
    REPEAT_IN_TIME: "(x, repeats) => (y)",
    MEAN_OVER_TIME: "(x, average, split, lead, rest) => (y)",
}

_BODIES = {
    # Min(Relu(x), theta_c): ONNX's Clip takes scalar bounds only.
    CLIP_RELU: """
    rectified = Relu (x)
    y = Min (rectified, threshold)
""",
    # Eq. 5 of the paper, psi = theta/2.
    QCFS: _HALF_AND_ZERO
    + """
    gain = Div (levels, threshold)
    amplitude = Div (threshold, levels)
    scaled = Mul (x, gain)
    potential = Add (scaled, half)
"""
    + _COUNT,
    # Eq. 9 with T~ = T.
    DAQCFS: _HALF_AND_ZERO + _POTENTIAL + _COUNT,
    SPIKE_COUNT: _HALF_AND_ZERO + _POTENTIAL + _COUNT,
    # Eqs. 8 and 9. x holds T trains of currents, [T*N, ...]. Row x of the conversion
    # matrix is 1/(T-x+1) everywhere; multiplied by (T-x+1) it is all ones, the charge
    # of every step becomes u itself, and step x fires when u >= T-x+1: a comparison
    # with exact integers (`steps`). A spike carries the post-threshold T * amplitude =
    # theta + phi, so that its mean over time is the amplitude.
    PARALLEL_SPIKES: _HALF_AND_ZERO
    + """
    trains = Reshape (x, split)
    charge = MatMul (conversion, trains)
    shape = Shape (x)
    charged = Reshape (charge, shape)
    one = Constant <value = float {1.0}> ()
    gain = Div (one, threshold)
    total_shift = Mul (shift, levels)
    shifted = Mul (total_shift, gain)
    offset = Add (shifted, half)
    scaled = Mul (charged, gain)
    potential = Add (scaled, offset)
    by_step = Reshape (potential, split)
    {fires}
    spikes = Reshape (fired, shape)
    post_threshold = Mul (amplitude, levels)
    {emit}
""",
    # The same for a current that is equal at every step: its charge is computed once.
    PARALLEL_SPIKES_STATIC: _HALF_AND_ZERO
    + _POTENTIAL
    + """
    by_step = Reshape (potential, split)
    {fires}
    shape = Shape (x)
    features = Gather (shape, rest)
    unfolded = Concat <axis = 0> (lead, features)
    spikes = Reshape (fired, unfolded)
    post_threshold = Mul (amplitude, levels)
    {emit}
""",
    # [N, ...] -> [T*N, ...], time outermost.
    REPEAT_IN_TIME: """
    y = Tile (x, repeats)
""",
    # [T*N, ...] -> [N, ...]; `average` is the row [1/T, ..., 1/T].
    MEAN_OVER_TIME: """
    trains = Reshape (x, split)
    mean = MatMul (average, trains)
    shape = Shape (x)
    features = Gather (shape, rest)
    unfolded = Concat <axis = 0> (lead, features)
    y = Reshape (mean, unfolded)
""",
}


def _spelling(opset: int) -> dict[str, str]:
    """The words that differ between opsets 8 and the newest."""
    return {
        # Clip takes its bounds as inputs from opset 11 on.
        "clip": "spikes = Clip (whole, zero, levels)"
        if opset >= 11
        else "positive = Max (whole, zero)\n    spikes = Min (positive, levels)",
        # GreaterOrEqual came with opset 12.
        "fires": "fired = GreaterOrEqual (by_step, steps)"
        if opset >= 12
        else "below = Less (by_step, steps)\n    fired = Not (below)",
        # Where came with opset 9.
        "emit": "y = Where (spikes, post_threshold, zero)"
        if opset >= 9
        else "binary = Cast <to = 1> (spikes)\n    y = Mul (binary, post_threshold)",
    }


def functions(names: Iterable[str], opset: int) -> list[onnx.FunctionProto]:
    """The named functions, bodies written for `opset`, in alphabetical order."""
    return [_function(name, opset) for name in sorted(names)]


def _function(name: str, opset: int) -> onnx.FunctionProto:
    body = _BODIES[name]
    # Only the placeholders are substituted; the braces of ONNX literals stay.
    for key, words in _spelling(opset).items():
        body = body.replace("{" + key + "}", words)
    return onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name} {_SIGNATURES[name]}\n'
        f"{{{body}}}"
    )
