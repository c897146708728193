"""What the functions of the domain ``graphpass`` compute: `dialect` writes them into files.

Words in braces differ between opsets, or with what happens at ties; `dialect` fills them in.
"""

from __future__ import annotations

HALF = """
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

SIGNATURES = {
    "ClipReLU": "(x, threshold) => (y)",
    "ClipAbove": "(x, sign, floor, threshold) => (y)",
    "QCFS": "(x, threshold, levels) => (y)",
    "DAQCFS": "(x, threshold, shift, amplitude, levels) => (y, potential, spikes)",
    "SpikeCount": "(x, levels) => (spikes)",
    "RoundedCount": "<channels> (x, levels, unit, origin) => (spikes)",
    "NearestCount": "(x, levels) => (spikes)",
    "ParallelSpikes": (
        "(x, threshold, shift, amplitude, levels, conversion, steps, split)"
        " => (y, potential, spikes)"
    ),
    "ParallelSpikesStatic": (
        "(x, threshold, shift, amplitude, levels, steps, split, lead, rest)"
        " => (y, potential, spikes)"
    ),
    "SortedSpikes": (
        "(x, threshold, shift, amplitude, levels, steps, sum, split, row, lead, rest)"
        " => (y, potential, spikes)"
    ),
    "SortedSpikesStatic": (
        "(x, threshold, shift, amplitude, levels, steps, row, lead, rest) => (y, potential, spikes)"
    ),
    "StaircaseSpikes": (
        "(x, crossings, levels, amplitude, charging, split, apart, lead, rest)"
        " => (y, potential, spikes)"
    ),
    "StaircaseSpikesStatic": (
        "(x, crossings, levels, amplitude, apart, lead, rest) => (y, potential, spikes)"
    ),
    "SerialIF": "(x, v, threshold, shift, amplitude, levels) => (y, v_next, spikes)",
    "RepeatInTime": "(x, repeats) => (y)",
    "MeanOverTime": "(x, average, split, lead, rest) => (y)",
}

BODIES = {
    # Min(Relu(x), theta_c): ONNX's Clip takes scalar bounds only.
    "ClipReLU": """
    rectified = Relu (x)
    y = Min (rectified, threshold)
""",
    # Behind a scalar function: how far sign * f(z) lies above its floor, up to theta_c.
    "ClipAbove": """
    signed = Mul (x, sign)
    above = Sub (signed, floor)
    rectified = Relu (above)
    y = Min (rectified, threshold)
""",
    # Eq. 5 of the paper, psi = theta/2.
    "QCFS": _ZERO
    + """
    gain = Div (levels, threshold)
    amplitude = Div (threshold, levels)
    {potential}
"""
    + _COUNT,
    # Eq. 9 with T~ = T.
    "DAQCFS": _ZERO + _POTENTIAL + _COUNT,
    # x is u itself. Clamping before rounding gives the same count, since 0 and T are
    # integers, and lets the clamp fuse into what computes u.
    "SpikeCount": _ZERO
    + """
    {clamp}
    spikes = Floor (clamped)
""",
    # The same by rounding in float32 arithmetic; see passes/fuse_rounding.py.
    "RoundedCount": _ZERO
    + """
    shifted = HardSigmoid <alpha = 5.9604644775390625e-08, beta = {middle}> (x)
    whole = Conv <group: int = @channels, kernel_shape = [1, 1]> (shifted, unit, origin)
    {clip}
""",
    # The same where halves go to even counts.
    "NearestCount": _ZERO
    + """
    {clamp}
    spikes = Round (clamped)
""",
    # Eqs. 8 and 9. x holds T trains of currents, [T*N, ...]. Row x of the conversion
    # matrix is 1/(T-x+1) everywhere; multiplied by (T-x+1) it is all ones, the charge
    # of every step becomes u itself, and step x fires when u >= T-x+1: a comparison
    # with exact integers (`steps`).
    "ParallelSpikes": """
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
    "ParallelSpikesStatic": _POTENTIAL
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
    "SortedSpikes": _ZERO
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
    "SortedSpikesStatic": _ZERO
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
    # Free thresholds, one for each step and channel: step x fires when the mean current
    # reaches level crossing T-x+1 of the function that the neuron stands behind. The
    # potential is that mean. `charging` has T equal rows, as in the paper, or one.
    "StaircaseSpikes": """
    trains = Reshape (x, split)
    charge = MatMul (charging, trains)
"""
    + _UNFOLDED
    + """
    charged = Reshape (charge, unfolded)
    potential = Div (charged, levels)
    each = Concat <axis = 0> (apart, features)
    by_step = Reshape (potential, each)
    {fires_at}
    spikes = Reshape (fired, shape)
"""
    + _EMIT,
    "StaircaseSpikesStatic": _UNFOLDED
    + """
    potential = Identity (x)
    each = Concat <axis = 0> (apart, features)
    by_step = Reshape (potential, each)
    {fires_at}
    spikes = Reshape (fired, unfolded)
"""
    + _EMIT,
    # One step of an integrate-and-fire neuron with soft reset. v is the membrane
    # potential above where it starts, theta/2, so that every state starts at zero.
    "SerialIF": HALF
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
    "RepeatInTime": """
    y = Tile (x, repeats)
""",
    # [T*N, ...] -> [N, ...]; `average` is the row [1/T, ..., 1/T].
    "MeanOverTime": """
    trains = Reshape (x, split)
    mean = MatMul (average, trains)
"""
    + _UNFOLDED
    + """
    y = Reshape (mean, unfolded)
""",
}
