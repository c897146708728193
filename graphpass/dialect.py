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

from graphpass.dialect_bodies import BODIES, HALF, SIGNATURES
from graphpass_runtime.neuron import Ties

DOMAIN = "graphpass"
VERSION = 1

CLIP_RELU = "ClipReLU"
CLIP_ABOVE = "ClipAbove"
QCFS = "QCFS"
DAQCFS = "DAQCFS"
SPIKE_COUNT = "SpikeCount"
ROUNDED_COUNT = "RoundedCount"
NEAREST_COUNT = "NearestCount"
PARALLEL_SPIKES = "ParallelSpikes"
PARALLEL_SPIKES_STATIC = "ParallelSpikesStatic"
SORTED_SPIKES = "SortedSpikes"
SORTED_SPIKES_STATIC = "SortedSpikesStatic"
STAIRCASE_SPIKES = "StaircaseSpikes"
STAIRCASE_SPIKES_STATIC = "StaircaseSpikesStatic"
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
        STAIRCASE_SPIKES,
        STAIRCASE_SPIKES_STATIC,
        SERIAL_IF,
    }
)
#: Functions that spike, or will in a later stage.
NEURONS = SPIKING | {CLIP_RELU, CLIP_ABOVE, QCFS}

_HALF_EVEN = "HalfEven"


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
FUNCTIONS = frozenset(SIGNATURES) | {name + _HALF_EVEN for name in _ROUNDING}

#: Operator Round came with this opset.
OLDEST_HALF_EVEN = 11


def family(name: str) -> str:
    """A function's name whatever it does at ties."""
    return name.removesuffix(_HALF_EVEN)


def arity(name: str) -> tuple[int, int]:
    """Numbers of inputs and outputs of a function."""
    inputs, _, outputs = SIGNATURES[family(name)].partition("=>")
    return inputs.count(",") + 1, outputs.count(",") + 1


def with_ties(name: str, ties: Ties) -> str:
    """The function of this family that rounds ties so."""
    if ties is Ties.HALF_UP:
        return name
    return NEAREST_COUNT if name == SPIKE_COUNT else name + _HALF_EVEN


def ties_of(name: str) -> Ties:
    """What a function does at ties."""
    return Ties.HALF_EVEN if name.endswith(_HALF_EVEN) else Ties.HALF_UP


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
        "fires_at": "fired = GreaterOrEqual (by_step, crossings)"
        if opset >= 12
        else "below = Less (by_step, crossings)\n    fired = Not (below)",
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
        "offset": HALF.strip() + "\n    offset = Add (shifted, half)",
        "potential": "scaled = Mul (x, gain)\n    "
        + HALF.strip()
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
    body = BODIES[family(name)]
    # Only the placeholders are substituted; the braces of ONNX literals stay.
    for key, words in {**_spelling(opset), **_TIES[ties_of(name)]}.items():
        body = body.replace("{" + key + "}", words)
    return onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name} {SIGNATURES[family(name)]}\n'
        f"{{{body}}}"
    )
