"""Sessions on graphs that were not written to a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from graphpass import large_weights
from graphpass_runtime.feeds import FedModel
from graphpass_runtime.session import Session

OpenSession = Callable[..., Session]  # of `open_session`


def open_session(proto: onnx.ModelProto, **options: Any) -> Session:
    """Run a graph whose large weights may be references; they are not copied.

    Args:
        proto: the graph. What it refers to is kept by the session.
        **options: of `Session`.
    """
    proto, weights = large_weights.as_inputs(proto)
    return Session(FedModel(proto.SerializeToString(), weights), **options)
