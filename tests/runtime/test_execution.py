"""Runs that fail, and runs that never end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphpass_runtime.errors import GraphpassError, ModelError, OptionError
from graphpass_runtime.execution import execute, time_limit
from graphpass_runtime.metadata import FileRecord, Stage, State
from graphpass_runtime.session import Session

Build = Callable[..., bytes]

ENDLESS = """g (float[N,3] x) => (float[N,3] y) <bool yes = {1}> {
    y = Loop (, yes, x) <body = body (int64 i, bool go, float[N,3] v) => (bool on, float[N,3] w) {
        on = Identity (go)
        w = Abs (v)
    }>
}"""
QUICK = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"
FEEDS = {"x": np.ones((2, 3), np.float32)}


def _stopped(call: Callable[[], Any]) -> None:
    start = time.monotonic()
    with time_limit(0.3), pytest.raises(ModelError, match=r"took longer than 0\.3 s"):
        call()
    assert time.monotonic() - start >= 0.3


def test_run_without_end_is_stopped(build: Build) -> None:
    session = Session(build(ENDLESS), threads=1)
    for _ in range(2):  # it can be run again
        _stopped(lambda: session.run(FEEDS))


def test_bound_batch_without_end_is_stopped(build: Build) -> None:
    session = Session(build(ENDLESS), threads=1)
    _stopped(lambda: session.bind(FEEDS))


def test_placement_without_end_is_stopped(build: Build) -> None:
    session = Session(build(ENDLESS), threads=1)
    _stopped(lambda: session.placement(FEEDS))


def test_step_without_end_is_stopped(build: Build) -> None:
    text = ENDLESS.replace("x)", "x, float[N,3] s)", 1).replace("y)", "y, float[N,3] t)", 1)
    text = text.replace("{1}> {", "{1}> { t = Identity (s)", 1)
    states = (State("s", "t", (1, 3), 0),)
    record = FileRecord(Stage.SPIKING, steps=2, states=states)
    _stopped(lambda: Session(build(text, record), threads=1).run(FEEDS))


def test_every_run_has_the_time_of_the_limit(build: Build) -> None:
    """Later runs are as free as the first one was, and runs may be shorter than the wait."""
    quick, endless = Session(build(QUICK), threads=1), Session(build(ENDLESS), threads=1)
    with time_limit(0.4):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            quick.run(FEEDS)
        start = time.monotonic()
        with pytest.raises(ModelError, match="took longer"):
            endless.run(FEEDS)
    assert time.monotonic() - start >= 0.4


def test_no_limit_outside_of_the_block(build: Build) -> None:
    def slow(options: Any) -> bool:
        time.sleep(0.3)
        return bool(options.terminate)

    with time_limit(0.1):
        assert execute(slow, where="model")
        with time_limit(None):
            assert not execute(slow, where="model")
    assert not execute(slow, where="model")


def test_failure_is_one_line() -> None:
    def fail(_options: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    with pytest.raises(ModelError, match=r"^m.onnx: ONNX Runtime fails .*\(first line\)$"):
        execute(fail, where="m.onnx")


def test_our_own_errors_pass() -> None:
    def fail(_options: Any) -> None:
        raise OptionError("no such thing")

    with pytest.raises(GraphpassError, match=r"^no such thing$"):
        execute(fail, where="m.onnx")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_impossible_limits_are_refused(seconds: float) -> None:
    with pytest.raises(OptionError, match="time limit"), time_limit(seconds):
        pass
