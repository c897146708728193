"""Stage 1: every activation that will spike gets a threshold."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing
from graphpass.activation import is_convertible, upper_bound
from graphpass.model import Model
from graphpass.neurons import parameters
from graphpass.passes.base import Pass
from graphpass.timeflow import TimeFlow


class BoundActivations(Pass):
    """Relu(x) becomes ClipReLU(x) = Min(Relu(x), theta_c), and so does Clip(x, 0, c).

    A QCFS has its threshold already and stays.
    """

    def __init__(
        self,
        names: Collection[str],
        flow: TimeFlow,
        thresholds: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Take the activations to bound.

        Args:
            names: the activations that become neurons.
            flow: time types, for the channel axes.
            thresholds: per Relu, float32 ``[C]`` or ``[1]``.
        """
        self._names = frozenset(names)
        self._flow = flow
        self._thresholds = thresholds

    def apply(self, model: Model) -> int:
        """One function call for each."""
        return sum(self._try_bound(model, node) for node in model.graph.nodes)

    def _try_bound(self, model: Model, node: gs.Node) -> bool:
        if not node.outputs or node.outputs[0].name not in self._names:
            return False
        if not is_convertible(node) or node.domain == dialect.DOMAIN:
            return False
        source, name = node.inputs[0], node.outputs[0].name
        limit = upper_bound(node)
        if limit is None:
            axis = self._flow.types[source.name].channel_axis
            threshold = parameters.beside(
                parameters.guarded(self._thresholds[name]), len(source.shape), axis
            )
        else:
            threshold = np.asarray(limit)
        node.op, node.domain = dialect.CLIP_RELU, dialect.DOMAIN
        node.attrs.clear()
        node.inputs = [
            source,
            editing.constant(model, f"{name}/threshold", threshold.astype(np.float32)),
        ]
        return True
