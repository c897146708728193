"""The ONNX domain ``graphpass``: local functions that every stage is written in.

Each function is flat, made of standard operators without control flow, so that
ONNX Runtime inlines it, CUDA graphs stay possible, and Netron shows one node per
neuron layer that opens to its subgraph. A body is written for the model's own
opset; where operators changed between opsets, `_Spelling` picks the words.

A neuron rounds its potential to a spike count. Where the potential lies half way between
two counts, QCFS takes the upper one, Floor(u + 1/2); quantisers take the even one, Round(u).
The functions of quantisers are those of QCFS with another rounding, named with the suffix
``HalfEven``; `family` tells the name without it.

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

from graphpass_runtime.metadata import Ties

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

_HALF_EVEN = "HalfEven"

_HALF = """
    half = Constant <value = float {0.5}> ()
"""
_ZERO = """
    zero = Constant <value = float {0.0}> ()
"""

# u = T (x + shift) / theta + 1/2, evaluated as x * gain + offset with both constants
# folded when the session is made. Where halves go to even counts, u has no 1/2.
_POTENTIAL = """
    gain = Div (levels, threshold)
    shifted = Mul (shift, gain)
    {offset}
    scaled = Mul (x, gain)
    potential = Add (scaled, offset)
"""

# n = Clip(Floor(u), 0, T): half-way values fire, as in QCFS.
_COUNT = """
    {whole}
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
    {whole}
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
    {offset}
    {scaled}
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

# Functions that round, or compare with whole numbers, in their bodies.
_ROUNDING = (
    QCFS,
    DAQCFS,
    ROUNDED_COUNT,
    PARALLEL_SPIKES,
    PARALLEL_SPIKES_STATIC,
    SORTED_SPIKES,
    SORTED_SPIKES_STATIC,
)

#: All functions of the domain.
FUNCTIONS = frozenset(_SIGNATURES) | {name + _HALF_EVEN for name in _ROUNDING}

#: Operator Round came with this opset.
OLDEST_HALF_EVEN = 11


def family(name: str) -> str:
    """A function's name whatever it does at ties."""
    return name.removesuffix(_HALF_EVEN)


def with_ties(name: str, ties: Ties) -> str:
    """The function of this family that rounds ties so."""
    if ties is Ties.HALF_UP:
        return name
    return NEAREST_COUNT if name == SPIKE_COUNT else name + _HALF_EVEN


def ties_of(name: str) -> Ties:
    """What a function does at ties."""
    return Ties.HALF_EVEN if name.endswith(_HALF_EVEN) else Ties.HALF_UP


_BODIES = {
    # Min(Relu(x), theta_c): ONNX's Clip takes scalar bounds only.
    CLIP_RELU: """
    rectified = Relu (x)
    y = Min (rectified, threshold)
""",
    # Eq. 5 of the paper, psi = theta/2.
    QCFS: _ZERO
    + """
    gain = Div (levels, threshold)
    amplitude = Div (threshold, levels)
    {potential}
"""
    + _COUNT,
    # Eq. 9 with T~ = T.
    DAQCFS: _ZERO + _POTENTIAL + _COUNT,
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
    shifted = HardSigmoid <alpha = 5.9604644775390625e-08, beta = {middle}> (x)
    whole = Conv <group: int = @channels, kernel_shape = [1, 1]> (shifted, unit, origin)
    {clip}
""",
    # The same where halves go to even counts.
    NEAREST_COUNT: _ZERO
    + """
    {clamp}
    spikes = Round (clamped)
""",
    # Eqs. 8 and 9. x holds T trains of currents, [T*N, ...]. Row x of the conversion
    # matrix is 1/(T-x+1) everywhere; multiplied by (T-x+1) it is all ones, the charge
    # of every step becomes u itself, and step x fires when u >= T-x+1: a comparison
    # with exact integers (`steps`).
    PARALLEL_SPIKES: """
    trains = Reshape (x, split)
    charge = MatMul (conversion, trains)
    shape = Shape (x)
    charged = Reshape (charge, shape)
"""
    + _CHARGED
    + """
{settle}    by_step = Reshape ({settled}, split)
    {fires}
    spikes = Reshape (fired, shape)
"""
    + _EMIT,
    # The same for a current that is equal at every step: its charge is computed once.
    PARALLEL_SPIKES_STATIC: _POTENTIAL
    + """
{settle}    by_step = Reshape ({settled}, split)
    {fires}
"""
    + _UNFOLDED
    + """
    spikes = Reshape (fired, unfolded)
"""
    + _EMIT,
    # Section 4.3: one sum over time charges all steps, since the rows of the conversion
    # matrix are constant; the first firing step says when the others fire.
    SORTED_SPIKES: _ZERO
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
    SORTED_SPIKES_STATIC: _ZERO
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


# The words that differ with what happens at ties. A train compares u with whole numbers,
# which is all the rounding that half up needs; half to even rounds once, then compares.
_TIES = {
    Ties.HALF_UP: {
        "offset": _HALF.strip() + "\n    offset = Add (shifted, half)",
        "potential": "scaled = Mul (x, gain)\n    "
        + _HALF.strip()
        + "\n    potential = Add (scaled, half)",
        "whole": "whole = Floor (potential)",
        "scaled": "scaled = Mul (charged, gain)",
        "settle": "",
        "settled": "potential",
        "middle": "0.49999997019767761",
    },
    Ties.HALF_EVEN: {
        "offset": "offset = Identity (shifted)",
        "potential": "potential = Mul (x, gain)",
        "whole": "whole = Round (potential)",
        # T is 255 or 15 and the step often a power of two: the quotient of a sum of spikes
        # is exact where it lies on a tie, the product with 1/theta is not.
        "scaled": "scaled = Div (charged, threshold)",
        "settle": "    whole = Round (potential)\n",
        "settled": "whole",
        "middle": "0.5",
    },
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
    body = _BODIES[family(name)]
    # Only the placeholders are substituted; the braces of ONNX literals stay.
    for key, words in {**_spelling(opset), **_TIES[ties_of(name)]}.items():
        body = body.replace("{" + key + "}", words)
    return onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name} {_SIGNATURES[family(name)]}\n'
        f"{{{body}}}"
    )
