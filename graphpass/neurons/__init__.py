"""The Neuron record and its builders: record -> ONNX subgraph.

`FORMS` names the spiking forms of stage 4. They are the same network; a builder
changes the neuron's DA-QCFS node in place.
"""

from collections.abc import Callable

import onnx_graphsurgeon as gs

from graphpass.model import Model
from graphpass.neurons import counted, matmul
from graphpass.timeflow import TimeType
from graphpass_runtime.metadata import Carrier, Neuron

Builder = Callable[[Model, gs.Node, Neuron, TimeType], None]

#: Form -> (how its neurons' outputs travel, builder).
FORMS: dict[str, tuple[Carrier, Builder]] = {
    "matmul": (Carrier.TRAIN, matmul.build),
    "counts": (Carrier.COUNT, counted.build_counts),
}

__all__ = ["FORMS", "Builder", "Carrier", "Neuron"]
