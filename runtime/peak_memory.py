"""Peak memory of one model, measured in a fresh process.

The process first runs a model of one Identity, so that what ONNX Runtime takes whatever
it runs is there before the measured model is loaded. The result is the highest resident
memory afterwards less the resident memory before: weights, as ONNX Runtime arranges
them, intermediate tensors and outputs. Inputs are not in it.

The high-water mark is read from `/proc/self/status`, since `ru_maxrss` of a process starts
at what its parent held when it forked; elsewhere `ru_maxrss` is all there is. Device
memory is not counted.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graphpass_runtime.errors import ModelError
from graphpass_runtime.feeds import Array
from graphpass_runtime.session import Session

# IR 8, opset 17, y = Identity(x), float32[1].
_IDENTITY = base64.b64decode(
    "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBE="
)
_STATUS = Path("/proc/self/status")
_TIMEOUT = 600


def peak_memory(
    model: Path, feeds: Mapping[str, Array], *, threads: int | None = None, provider: str = "cpu"
) -> int | None:
    """Bytes that loading a model and running it twice takes at its highest.

    Args:
        model: path of an ONNX file.
        feeds: its inputs.
        threads: threads of the session.
        provider: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The number of bytes; None where the platform does not say.

    Raises:
        ModelError: the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "feeds.npz"
        np.savez(inputs, **dict(feeds))  # type: ignore[arg-type]
        command = [
            *(sys.executable, "-m", "graphpass_runtime.peak_memory"),
            *(os.fspath(model), os.fspath(inputs), str(threads or 0), provider),
        ]
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter and this module
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ModelError(
                f"its memory cannot be measured within {_TIMEOUT} s", where=str(model)
            ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelError(f"its memory cannot be measured ({lines[-1][:200]})", where=str(model))
    result = int(done.stdout)
    return result if result >= 0 else None


def _measure(model: str, inputs: str, threads: str, provider: str) -> int:
    """What the fresh process does: bytes, or -1."""
    with np.load(inputs) as file:
        feeds = {name: file[name] for name in file.files}
    options = {"provider": provider, "threads": int(threads) or None, "spinning": False}
    Session(_IDENTITY, **options).run({"x": np.zeros(1, np.float32)})  # type: ignore[arg-type]
    before = resident("VmRSS")
    session = Session(model, **options)  # type: ignore[arg-type]
    for _ in range(2):
        session.run(feeds)
    after = resident("VmHWM")
    return -1 if before is None or after is None else max(0, after - before)


def resident(field: str) -> int | None:
    """Resident memory in bytes: now (VmRSS) or at its highest (VmHWM)."""
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(_measure(*sys.argv[1:5]))  # noqa: T201 - this is the answer to the parent process
