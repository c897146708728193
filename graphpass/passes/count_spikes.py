"""Stage 4, form `counts`: each DA-QCFS becomes a layer of neurons that send counts."""

from __future__ import annotations

from graphpass import dialect, editing
from graphpass.model import Model
from graphpass.passes.base import Pass


class CountSpikes(Pass):
    """DA-QCFS becomes `graphpass::SpikeCount`: the same inputs and outputs."""

    def apply(self, model: Model) -> int:
        """Change the operator's name."""
        nodes = [n for n in model.graph.nodes if editing.is_dialect(n, dialect.DAQCFS)]
        for node in nodes:
            node.op = dialect.SPIKE_COUNT
        return len(nodes)
