"""Where the time axis lives: types, one registry of operator rules, one inference."""

from graphpass.timeflow.infer import RefusedNode, TimeFlow, infer
from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType

__all__ = ["Kind", "Refusal", "RefusedNode", "Shape", "TimeFlow", "TimeType", "infer"]
