"""The ONNX domain ``graphpass``: local functions that every stage is written in.

Each function is flat, made of standard operators without control flow, so that
ONNX Runtime inlines it, CUDA graphs stay possible, and Netron shows one node per
neuron layer that opens to its subgraph. A body is written for the model's own
opset; where operators changed between opsets, `_Spelling` picks the words.

Every function that spikes has the spikes as its last output. Those of the stages and of
trains have two more: what flows on, and the membrane potential u in units of
thresholds. They cost nothing when unused, since they are intermediate results anyway.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

DOMAIN = "graphpass"
VERSION = 1

CLIP_RELU = "ClipReLU"
QCFS = "QCFS"
DAQCFS = "DAQCFS"
SPIKE_COUNT = "SpikeCount"
ROUNDED_COUNT = "RoundedCount"
NEAREST_COUNT = "NearestCount"
PARALLEL_SPIKES = "ParallelSpikes"
PARALLEL_SPIKES_STATIC = "ParallelSpikesStatic"
SORTED_SPIKES = "SortedSpikes"
SORTED_SPIKES_STATIC = "SortedSpikesStatic"
SERIAL_IF = "SerialIF"
REPEAT_IN_TIME = "RepeatInTime"
MEAN_OVER_TIME = "MeanOverTime"

#: Functions that spike.
SPIKING = frozenset(
    {
        DAQCFS,
        SPIKE_COUNT,
        ROUNDED_COUNT,
        NEAREST_COUNT,
        PARALLEL_SPIKES,
        PARALLEL_SPIKES_STATIC,
        SORTED_SPIKES,
        SORTED_SPIKES_STATIC,
        SERIAL_IF,
    }
)
#: Functions that spike, or will in a later stage.
NEURONS = SPIKING | {CLIP_RELU, QCFS}

_HALF = """
    half = Constant <value = float {0.5}> ()
"""
_ZERO = """
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

# A spike carries the post-threshold T * amplitude = theta + phi, so that its mean over
# time is the amplitude. A cast and a product run faster here than a Where.
_EMIT = """
    post_threshold = Mul (amplitude, levels)
    binary = Cast <to = 1> (spikes)
    y = Mul (binary, post_threshold)
"""

# The first firing step, T + 1 where there is none.
_FIRST = """
    whole = Floor (potential)
    {clip_count}
    one = Constant <value = float {1.0}> ()
    beyond = Add (levels, one)
    first = Sub (beyond, count)
"""

# The shape of x with another size on the batch axis.
_UNFOLDED = """
    shape = Shape (x)
    features = Gather (shape, rest)
    unfolded = Concat <axis = 0> (lead, features)
"""

# Charge of T trains: sum over time, then u = (sum + T shift) / theta + 1/2.
_CHARGED = """
    one_over = Constant <value = float {1.0}> ()
    gain = Div (one_over, threshold)
    total_shift = Mul (shift, levels)
    shifted = Mul (total_shift, gain)
    offset = Add (shifted, half)
    scaled = Mul (charged, gain)
    potential = Add (scaled, offset)
"""

_SIGNATURES = {
    CLIP_RELU: "(x, threshold) => (y)",
    QCFS: "(x, threshold, levels) => (y)",
    DAQCFS: "(x, threshold, shift, amplitude, levels) => (y, potential, spikes)",
    SPIKE_COUNT: "(x, levels) => (spikes)",
    ROUNDED_COUNT: "<channels> (x, levels, unit, origin) => (spikes)",
    NEAREST_COUNT: "(x, levels) => (spikes)",
    PARALLEL_SPIKES: (
        "(x, threshold, shift, amplitude, levels, conversion, steps, split)"
        " => (y, potential, spikes)"
    ),
    PARALLEL_SPIKES_STATIC: (
        "(x, threshold, shift, amplitude, levels, steps, split, lead, rest)"
        " => (y, potential, spikes)"
    ),
    SORTED_SPIKES: (
        "(x, threshold, shift, amplitude, levels, steps, sum, split, row, lead, rest)"
        " => (y, potential, spikes)"
    ),
    SORTED_SPIKES_STATIC: (
        "(x, threshold, shift, amplitude, levels, steps, row, lead, rest) => (y, potential, spikes)"
    ),
    SERIAL_IF: "(x, v, threshold, shift, amplitude, levels) => (y, v_next, spikes)",
    REPEAT_IN_TIME: "(x, repeats) => (y)",
    MEAN_OVER_TIME: "(x, average, split, lead, rest) => (y)",
}

#: All functions of the domain.
FUNCTIONS = frozenset(_SIGNATURES)

_BODIES = {
    # Min(Relu(x), theta_c): ONNX's Clip takes scalar bounds only.
    CLIP_RELU: """
    rectified = Relu (x)
    y = Min (rectified, threshold)
""",
    # Eq. 5 of the paper, psi = theta/2.
    QCFS: _HALF
    + _ZERO
    + """
    gain = Div (levels, threshold)
    amplitude = Div (threshold, levels)
    scaled = Mul (x, gain)
    potential = Add (scaled, half)
"""
    + _COUNT,
    # Eq. 9 with T~ = T.
    DAQCFS: _HALF + _ZERO + _POTENTIAL + _COUNT,
    # x is u itself. Clamping before rounding gives the same count, since 0 and T are
    # integers, and lets the clamp fuse into what computes u.
    SPIKE_COUNT: _ZERO
    + """
    {clamp}
    spikes = Floor (clamped)
""",
    # The same by rounding in float32 arithmetic; see passes/fuse_rounding.py.
    ROUNDED_COUNT: _ZERO
    + """
    shifted = HardSigmoid <alpha = 5.9604644775390625e-08, beta = 0.49999997019767761> (x)
    whole = Conv <group: int = @channels, kernel_shape = [1, 1]> (shifted, unit, origin)
    {clip}
""",
    # x is u - 1/2, which is rounded half to even; see passes/quantise_weights.py.
    NEAREST_COUNT: _ZERO
    + """
    {clamp}
    spikes = Round (clamped)
""",
    # Eqs. 8 and 9. x holds T trains of currents, [T*N, ...]. Row x of the conversion
    # matrix is 1/(T-x+1) everywhere; multiplied by (T-x+1) it is all ones, the charge
    # of every step becomes u itself, and step x fires when u >= T-x+1: a comparison
    # with exact integers (`steps`).
    PARALLEL_SPIKES: _HALF
    + """
    trains = Reshape (x, split)
    charge = MatMul (conversion, trains)
    shape = Shape (x)
    charged = Reshape (charge, shape)
"""
    + _CHARGED
    + """
    by_step = Reshape (potential, split)
    {fires}
    spikes = Reshape (fired, shape)
"""
    + _EMIT,
    # The same for a current that is equal at every step: its charge is computed once.
    PARALLEL_SPIKES_STATIC: _HALF
    + _POTENTIAL
    + """
    by_step = Reshape (potential, split)
    {fires}
"""
    + _UNFOLDED
    + """
    spikes = Reshape (fired, unfolded)
"""
    + _EMIT,
    # Section 4.3: one sum over time charges all steps, since the rows of the conversion
    # matrix are constant; the first firing step says when the others fire.
    SORTED_SPIKES: _HALF
    + _ZERO
    + """
    trains = Reshape (x, split)
    total = MatMul (sum, trains)
"""
    + _UNFOLDED
    + """
    charged = Reshape (total, unfolded)
"""
    + _CHARGED
    + _FIRST
    + """
    by_step = Reshape (first, row)
    {reaches}
    spikes = Reshape (fired, shape)
"""
    + _EMIT,
    SORTED_SPIKES_STATIC: _HALF
    + _ZERO
    + _POTENTIAL
    + _FIRST
    + """
    by_step = Reshape (first, row)
    {reaches}
"""
    + _UNFOLDED
    + """
    spikes = Reshape (fired, unfolded)
"""
    + _EMIT,
    # One step of an integrate-and-fire neuron with soft reset. v is the membrane
    # potential above where it starts, theta/2, so that every state starts at zero.
    SERIAL_IF: _HALF
    + """
    shifted = Add (x, shift)
    charged = Add (shifted, v)
    distance = Mul (threshold, half)
    {crosses}
    spikes = Cast <to = 1> (fired)
    reset = Mul (spikes, threshold)
    v_next = Sub (charged, reset)
    post_threshold = Mul (amplitude, levels)
    y = Mul (spikes, post_threshold)
""",
    # [N, ...] -> [T*N, ...], time outermost.
    REPEAT_IN_TIME: """
    y = Tile (x, repeats)
""",
    # [T*N, ...] -> [N, ...]; `average` is the row [1/T, ..., 1/T].
    MEAN_OVER_TIME: """
    trains = Reshape (x, split)
    mean = MatMul (average, trains)
"""
    + _UNFOLDED
    + """
    y = Reshape (mean, unfolded)
""",
}


def _spelling(opset: int) -> dict[str, str]:
    """The words that differ between opsets 8 and the newest."""
    return {
        # Clip takes its bounds as inputs from opset 11 on.
        "clip": _clip("spikes", opset),
        "clip_count": _clip("count", opset),
        "clamp": _clip("clamped", opset, "x"),
        # GreaterOrEqual came with opset 12. `steps` are the integers that u is compared
        # with, T-x+1, or the numbers x of the steps that the first firing one is.
        "fires": "fired = GreaterOrEqual (by_step, steps)"
        if opset >= 12
        else "below = Less (by_step, steps)\n    fired = Not (below)",
        "crosses": "fired = GreaterOrEqual (charged, distance)"
        if opset >= 12
        else "below = Less (charged, distance)\n    fired = Not (below)",
        "reaches": "fired = GreaterOrEqual (steps, by_step)"
        if opset >= 12
        else "early = Less (steps, by_step)\n    fired = Not (early)",
    }


def _clip(output: str, opset: int, source: str = "whole") -> str:
    if opset >= 11:
        return f"{output} = Clip ({source}, zero, levels)"
    return f"positive = Max ({source}, zero)\n    {output} = Min (positive, levels)"


def functions(names: Iterable[str], opset: int, *, half: bool = False) -> list[onnx.FunctionProto]:
    """The named functions, bodies written for `opset`, in alphabetical order.

    Args:
        names: which functions.
        opset: version of the standard operators in their bodies.
        half: they compute in float16.
    """
    found = [_function(name, opset) for name in sorted(names)]
    if half:
        for function in found:
            _halve(function)
    return found


def _halve(function: onnx.FunctionProto) -> None:
    """Let the constants and casts of a body, the only types in it, be of float16."""
    for node in function.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                array = onnx.numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array, attribute.t.name))
            elif attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16


def _function(name: str, opset: int) -> onnx.FunctionProto:
    body = _BODIES[name]
    # Only the placeholders are substituted; the braces of ONNX literals stay.
    for key, words in _spelling(opset).items():
        body = body.replace("{" + key + "}", words)
    return onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name} {_SIGNATURES[name]}\n'
        f"{{{body}}}"
    )
