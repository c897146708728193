"""What an operator rule sees of a node, and the registry of rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.admission import LARGEST
from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType


@dataclass(frozen=True)
class View:
    """A node with the time types of its inputs (None for inputs that are left out)."""

    node: gs.Node
    types: tuple[TimeType | None, ...]
    opset: int

    @property
    def varying(self) -> list[int]:
        """Positions of the inputs that have a time axis."""
        return [i for i, t in enumerate(self.types) if t is not None and t.varies]

    def type(self, index: int = 0) -> TimeType:
        """Time type of an input that must be there."""
        found = self.types[index]
        assert found is not None, "a rule asked for the type of an absent input"
        return found

    def shape(self, index: int = 0) -> Shape | None:
        """Shape of an input, None when even the rank is unknown."""
        shape = self.node.inputs[index].shape
        return None if shape is None else list(shape)

    def rank(self, index: int = 0) -> int | None:
        """Rank of an input."""
        shape = self.shape(index)
        return None if shape is None else len(shape)

    def constant(self, index: int) -> NDArray[Any] | None:
        """Values of an input that is an initializer, else None."""
        return editing.values(editing.present(self.node.inputs, index))

    @property
    def hidden(self) -> bool:
        """Is there an input beside the first whose values are only known at run time?"""
        return any(isinstance(t, gs.Variable) and not t.is_empty() for t in self.node.inputs[1:])

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.node.attrs.get(name, default)

    def axes(self, index: int, rank: int) -> list[int] | None:
        """The `axes` of a node, from its attribute or its input at `index`, counted from 0."""
        given = self.attr("axes")
        if given is None:
            array = self.constant(index)
            given = None if array is None else array.ravel().tolist()
        return None if given is None else [int(axis) % rank for axis in given]


Verdict = TimeType | Refusal
Rule = Callable[[View], Verdict]

_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule: the time type of the outputs, or why the node is refused.

    A rule is asked when at least one input has a time axis, and also for static
    inputs, where it only has to say where the batch and the channels went.
    """

    def register(function: Rule) -> Rule:
        for op in ops:
            assert op not in _RULES, f"two rules for {op}"
            _RULES[op] = function
        return function

    return register


def find_rule(node: gs.Node) -> Rule | None:
    """The rule of a standard operator, None when there is none."""
    return _RULES.get(node.op) if editing.is_standard(node, node.op) else None


def known_operators() -> list[str]:
    """Names of all operators that have a rule, sorted."""
    return sorted(_RULES)


def kind_of(view: View, *, spikes_stay: bool = False) -> Kind:
    """Kind of a linear operator's output, from the kinds of its inputs."""
    kinds = {view.types[i].kind for i in view.varying}  # type: ignore[union-attr]
    if not kinds:
        return Kind.STATIC
    return Kind.SPIKES if spikes_stay and kinds == {Kind.SPIKES} else Kind.CURRENT


def not_understood(what: str, *others: str) -> Refusal:
    """The refusal of a node whose attributes or shapes could not be read."""
    return Refusal(what, ", or ".join(["export the model with constant shapes and axes", *others]))


PER_SAMPLE = Refusal("has weights that carry the batch", "export the model with constant weights")
UNLIKE_MEANS = Refusal(
    "takes the maximum of currents that differ per step, which is not the maximum of their means",
    "put an activation between, or pool before the sum",
)
MIXES = Refusal(
    "works along the batch axis, so it mixes samples",
    "remove it, or export the model with the batch on another axis",
    mixes=True,
)


def is_zero(array: NDArray[Any] | None) -> bool:
    """Is an optional constant absent or zero everywhere?"""
    return array is None or not np.any(array)


def moved(kind: TimeType, place: Any) -> TimeType:
    """The type after axes moved; `place(old)` is the new axis, ValueError when it is gone."""

    def new(axis: int | None) -> int | None:
        if axis is None:
            return None
        try:
            return int(place(axis))
        except ValueError:
            return None

    channel_axis = new(kind.channel_axis)
    lost = kind.channel_axis is not None and channel_axis is None
    return replace(
        kind,
        batch_axis=new(kind.batch_axis),
        channel_axis=channel_axis,
        poolable=kind.poolable and not lost,
    )


def not_finite(view: View) -> Refusal | None:
    """A sum, product or quotient that makes currents infinite: no neuron can be charged so."""
    for index in range(len(view.node.inputs)):
        array = view.constant(index)
        if array is None or array.dtype.kind != "f":
            continue
        with np.errstate(all="ignore"):
            operand = 1 / array if view.node.op == "Div" and index == 1 else array
        if not np.isfinite(array).all() or not np.isfinite(operand).all():
            return Refusal("computes with zero or infinity", "mend the constants of the model")
        if float(np.abs(operand).max(initial=0)) > LARGEST:
            return Refusal("computes with more than 2^112", "mend the constants of the model")
    return None
