"""Where the time axis lives: types, one registry of operator rules, one inference."""

from graphpass.timeflow.infer import (
    RefusedNode,
    TimeFlow,
    infer,
    keeps_samples_apart,
    where_batch_goes,
)
from graphpass.timeflow.types import Kind, Refusal, Shape, TimeType
from graphpass.timeflow.view import View

__all__ = [
    "Kind",
    "Refusal",
    "RefusedNode",
    "Shape",
    "TimeFlow",
    "TimeType",
    "View",
    "infer",
    "keeps_samples_apart",
    "where_batch_goes",
]
