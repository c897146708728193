"""How far rounding moves membrane potentials, measured.

A near tie is a potential within 2^-16 of an integer, relatively: as far as rounding moves
sums of ordinary layers. Islands that divide by what is nearly zero, or look up pixels at
computed places, carry it further, and so do sums whose terms cancel. How far is seen on the
reference itself: its neurons are fed their own counts, and everything that is computed
between them is off by a few units of float32's last place, at random (Monte Carlo
arithmetic: Parker, Pierce and Eggert 2000, "Monte Carlo arithmetic: how to gamble with
floating point and win", in Computing in Science & Engineering).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.instrument import Arrays, Instrumented, Reading, spiking_record
from graphpass.model import Model, infer_shapes
from graphpass_runtime.metadata import FileRecord

_NOISE = 2.0**-21  # up to eight units of roundoff: sums of many products are that exact
_DRAWS = 8
_REACH = 4.0  # standard deviations


class RoundingReach:
    """The reference of a comparison, and sessions on it, opened when first needed.

    Args:
        reference: gives the model, anew at every call.
        other: the record of the other side, with its pools.
        options: for the `Session`.
    """

    def __init__(
        self, reference: Callable[[], Model], other: FileRecord, options: Mapping[str, Any]
    ) -> None:
        self._reference, self._other, self._options = reference, other, options
        self._sides: tuple[Instrumented, Instrumented] | None = None

    def measure(self, feeds: Arrays, expected: Reading) -> dict[str, NDArray[np.float32]]:
        """How far each potential may be moved, in thresholds, ``[N, ...]``, by neuron name.

        Args:
            feeds: the batch.
            expected: what the reference gives for it, with the other side's pools.
        """
        squares = {name: np.zeros_like(u) for name, u in expected.potentials.items()}
        own, fed = self._sides or self._open()
        counts = fed.replay(own.read(feeds).counts)
        for draw in range(_DRAWS):
            rng = np.random.default_rng(draw)
            noisy = {name: _disturbed(array, rng) for name, array in {**feeds, **counts}.items()}
            for name, potential in fed.read(noisy).potentials.items():
                if potential.shape != squares[name].shape:
                    continue  # sizes that depend on the data, as of NonZero
                with np.errstate(invalid="ignore", over="ignore"):  # nothing explains these
                    squares[name] += np.square(potential - expected.potentials[name])
        reach = np.float32(_REACH / np.sqrt(_DRAWS))
        return {name: reach * np.sqrt(square) for name, square in squares.items()}

    def _open(self) -> tuple[Instrumented, Instrumented]:
        """One shows the reference's counts, without pools, and one accepts them."""
        shows, accepts = self._reference(), self._reference()
        own = Instrumented(shows, spiking_record(shows), self._options)
        _make_noisy(accepts)
        self._sides = own, Instrumented(accepts, self._other, self._options)
        return self._sides


def _make_noisy(model: Model) -> None:
    """Multiply whatever is computed from the inputs by noise, but for what neurons send."""
    infer_shapes(model)
    moved = {id(tensor) for tensor in model.graph.inputs}
    for seed, node in enumerate(list(model.graph.nodes)):
        if moved.isdisjoint(id(tensor) for tensor in node.inputs):
            continue
        for output in node.outputs:
            if output.dtype != np.float32:
                continue  # sizes, indices and conditions come from these
            moved.add(id(output))
            if editing.is_standard(node, node.op):
                _disturb(model, node, output, seed)
    model.graph.toposort()


def _disturb(model: Model, node: gs.Node, output: gs.Variable, seed: int) -> None:
    exact, noise = (
        gs.Variable(editing.fresh_name(model, f"{output.name}/{kind}"), output.dtype, output.shape)
        for kind in ("exact", "noise")
    )
    node.outputs = [exact if tensor is output else tensor for tensor in node.outputs]
    bounds = {"low": 1 - _NOISE, "high": 1 + _NOISE, "seed": float(seed)}
    model.graph.nodes += [
        gs.Node("RandomUniformLike", noise.name, bounds, [exact], [noise]),
        gs.Node("Mul", exact.name, {}, [exact, noise], [output]),
    ]


def _disturbed(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Each value off by a random share of the noise; what is not float32 stays."""
    if array.dtype != np.float32:
        return array
    noise = rng.uniform(1 - _NOISE, 1 + _NOISE, array.shape).astype(np.float32)
    disturbed: NDArray[np.float32] = array * noise
    return disturbed
