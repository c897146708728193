"""Running an ONNX Runtime session: for so long at most, and failures in one line.

To run a model is to run a program, and a few bytes are enough for one that never ends. ONNX
Runtime looks between any two nodes, those in the body of a Loop included, whether it is to
terminate; a thread that watches the time asks it to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from graphpass_runtime.errors import GraphpassError, ModelError, OptionError
from graphpass_runtime.ort_errors import shorten
from graphpass_runtime.providers import import_onnxruntime

_Result = TypeVar("_Result")


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Let no run that starts in this block, in this thread, take longer.

    A run is one call of ONNX Runtime, for a batch or a part of it. It ends after the node
    that it is at; what a node computes, and loading a model, is not interrupted.

    Args:
        seconds: above 0; None for as long as it takes, as outside of any block.

    Raises:
        OptionError: seconds that are not above 0, or endless.
    """
    if seconds is not None and not 0 < seconds <= threading.TIMEOUT_MAX:
        raise OptionError(f"a time limit of {seconds:g} s", remedy="give seconds, above 0")
    watchdog = None if seconds is None else _Watchdog(seconds)
    token = _watchdog.set(watchdog)
    try:
        yield
    finally:
        _watchdog.reset(token)
        if watchdog is not None:
            watchdog.stop()


def execute(call: Callable[[Any], _Result], *, where: str, options: Any = None) -> _Result:
    """Run a session.

    Args:
        call: runs it, with ONNX Runtime's `RunOptions`.
        where: what to call the model in an error.
        options: these `RunOptions`.

    Raises:
        ModelError: ONNX Runtime fails, or is stopped by `time_limit`.
    """
    if options is None:
        options = import_onnxruntime().RunOptions()
    watchdog = _watchdog.get()
    try:
        if watchdog is None:
            return call(options)
        with watchdog.watching(options):
            return call(options)
    except GraphpassError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        if watchdog is not None and options.terminate:
            options.terminate = False  # they may be used again
            raise ModelError(
                f"a run of it took longer than {watchdog.seconds:g} s",
                where=where,
                remedy="use smaller batches, or raise --time-limit",
            ) from error
        raise ModelError(
            f"ONNX Runtime fails while running it ({shorten(str(error))})", where=where
        ) from error


class _Watchdog:
    """A thread that terminates runs at their deadline.

    It is never told of a run: it wakes up at the first deadline that there can be. So a run
    costs no switch between threads.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: dict[int, tuple[float, Any]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def watching(self, options: Any) -> Iterator[None]:
        """Terminate the run with these options if the block takes too long."""
        with self._lock:
            self._running[id(options)] = (time.monotonic() + self.seconds, options)
        try:
            yield
        finally:
            with self._lock:
                del self._running[id(options)]

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _watch(self) -> None:
        wait = self.seconds
        while not self._stopped.wait(wait):
            now = time.monotonic()
            wait = self.seconds  # what starts from now on may run for that long
            with self._lock:
                for deadline, options in self._running.values():
                    if deadline <= now:
                        options.terminate = True
                    else:
                        wait = min(wait, deadline - now)


_watchdog: ContextVar[_Watchdog | None] = ContextVar("_watchdog", default=None)
