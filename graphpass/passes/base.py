"""The contract of a pass.

A pass changes a model in place and says whether it did. `requires` and `ensures`
state what must hold before and after; both raise, neither repairs.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphpass import editing
from graphpass.model import Model, infer_shapes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassResult:
    """What a pass returns: the same model, and whether it was changed."""

    model: Model
    modified: bool


class Pass(ABC):
    """One change to a graph. Subclasses are named by verb and noun, one to a file."""

    def __call__(self, model: Model) -> PassResult:
        """Check, change, tidy up, check."""
        self.requires(model)
        count = self.apply(model)
        if count:
            editing.tidy(model)
            infer_shapes(model)
            log.debug("%s: %d changes", type(self).__name__, count)
        self.ensures(model)
        return PassResult(model, modified=bool(count))

    @abstractmethod
    def apply(self, model: Model) -> int:
        """Do the work; the number of changes made."""

    def requires(self, model: Model) -> None:  # noqa: B027 - most passes need nothing
        """Raise when the model is not one that this pass can work on."""

    def ensures(self, model: Model) -> None:  # noqa: B027 - most passes promise nothing more
        """Raise when the pass left something undone that it promises."""


class Settled(Pass):
    """Passes in order, again and again while one of them finds something to change.

    Args:
        passes: every change takes something away that there was, so that there is an end.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes

    def apply(self, model: Model) -> int:
        """The number of rounds that changed something."""
        rounds = 0
        while run_all(model, self._passes).modified:
            rounds += 1
        return rounds


def until_settled(model: Model, attempt: Callable[[Model, gs.Node], bool]) -> int:
    """Try every node, again and again, until nothing changes; the number of changes."""
    changes = 0
    while any(attempt(model, node) for node in model.graph.nodes):
        changes += 1
    return changes


def run_all(model: Model, passes: Sequence[Pass]) -> PassResult:
    """Run passes in order; modified when one of them was."""
    results = [step(model).modified for step in passes]
    return PassResult(model, any(results))
