"""Pretrained ANNs become spiking networks: ONNX in, ONNX out.

The names below are the public API; they are loaded when first used, so that
``import graphpass`` is cheap and needs no ONNX Runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphpass.diagnosis.pair import diagnose
    from graphpass.diagnosis.report import Diagnosis, Layer
    from graphpass.inspection import Inspection, inspect
    from graphpass.pipeline import Conversion, convert
    from graphpass.plan import RefusedConversion
    from graphpass.step_allocation import Allocation, convert_allocated
    from graphpass.step_search import StepSearch, convert_within
    from graphpass.verification import Verification, verify
    from graphpass_runtime.benchmark import Benchmark, Measurement, bench
    from graphpass_runtime.errors import GraphpassError
    from graphpass_runtime.evaluation import Evaluation, evaluate
    from graphpass_runtime.execution import time_limit
    from graphpass_runtime.neuron import Neuron
    from graphpass_runtime.session import Session

_HOMES = {
    "Allocation": "graphpass.step_allocation",
    "Benchmark": "graphpass_runtime.benchmark",
    "Conversion": "graphpass.pipeline",
    "Diagnosis": "graphpass.diagnosis.report",
    "Evaluation": "graphpass_runtime.evaluation",
    "GraphpassError": "graphpass_runtime.errors",
    "Inspection": "graphpass.inspection",
    "Layer": "graphpass.diagnosis.report",
    "Measurement": "graphpass_runtime.benchmark",
    "Neuron": "graphpass_runtime.metadata",
    "RefusedConversion": "graphpass.plan",
    "Session": "graphpass_runtime.session",
    "StepSearch": "graphpass.step_search",
    "Verification": "graphpass.verification",
    "bench": "graphpass_runtime.benchmark",
    "convert": "graphpass.pipeline",
    "convert_allocated": "graphpass.step_allocation",
    "convert_within": "graphpass.step_search",
    "diagnose": "graphpass.diagnosis.pair",
    "evaluate": "graphpass_runtime.evaluation",
    "inspect": "graphpass.inspection",
    "time_limit": "graphpass_runtime.execution",
    "verify": "graphpass.verification",
}

__all__ = [
    "Allocation",
    "Benchmark",
    "Conversion",
    "Diagnosis",
    "Evaluation",
    "GraphpassError",
    "Inspection",
    "Layer",
    "Measurement",
    "Neuron",
    "RefusedConversion",
    "Session",
    "StepSearch",
    "Verification",
    "bench",
    "convert",
    "convert_allocated",
    "convert_within",
    "diagnose",
    "evaluate",
    "inspect",
    "time_limit",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graphpass' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*globals(), *__all__])
