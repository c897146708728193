"""Where the time axis lives: types, one registry of operator rules, one inference."""

from graphpass.timeflow.infer import RefusedNode, TimeFlow, infer, keeps_samples_apart
from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType

__all__ = [
    "Kind",
    "Refusal",
    "RefusedNode",
    "Shape",
    "TimeFlow",
    "TimeType",
    "infer",
    "keeps_samples_apart",
]
