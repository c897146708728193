"""What ONNX Runtime's messages mean, in one line each."""

from __future__ import annotations

import re
from pathlib import Path

from graphpass_runtime.errors import ModelError

_LONGEST = 200  # characters of ONNX Runtime's own words that we repeat

# Prefix of its errors, the C++ place and signature, and the path that we name ourselves.
_NOISE = (
    re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"^(Load model from|Deserialize tensor) \S.*? failed[:.]\s*"),
    re.compile(r"\S*onnxruntime\S*\.(?:h|cc|cpp|cu):\d+ .*?\)(?: const)? (?=\S)"),
    re.compile(r"\b\w+\.(?:h|cc|cpp):\d+ \w+ "),
)

# (what the message holds, what is wrong, what to do, whether to repeat the message)
_MEANINGS = (
    (
        r"[Pp]rotobuf parsing failed|No graph was found|does not have a graph",
        "not an ONNX model, or cut short",
        "check that the file is complete",
        False,
    ),
    (
        r"codec can't decode",
        "names or metadata are damaged",
        "check that the file is complete",
        False,
    ),
    (
        r"graph capture feature",
        "no CUDA graph can be made of it",
        "leave cuda_graph out; placement() shows the nodes that are not on CUDA",
        True,
    ),
    (
        r"[Ee]xternal (data|initializer)|cannot get file size",
        "external data is missing or damaged",
        "keep the model's data file beside it",
        True,
    ),
    (
        r"Graph output \(.*\) does not exist",
        "no such tensor to expose",
        "check the names of the extra outputs",
        True,
    ),
    (
        r"Unsupported model IR version|is under development|till opset|Unsupported opset",
        "newer than the installed ONNX Runtime",
        "update ONNX Runtime, or export with a lower opset",
        True,
    ),
    (
        r"not a registered function/op|No Op registered|NOT_IMPLEMENTED|"
        r"Could not find an implementation",
        "has an operator that ONNX Runtime cannot run",
        "export the model with standard ONNX operators",
        True,
    ),
)


def load_error(error: Exception, *, where: str, folder: Path | None = None) -> ModelError:
    """Why ONNX Runtime did not load a model.

    Args:
        error: what it raised.
        where: what to call the model.
        folder: the model's folder, which is cut from the message.
    """
    message = str(error)
    words = shorten(message, folder=folder)
    for pattern, problem, remedy, repeat in _MEANINGS:
        if re.search(pattern, message):
            return ModelError(
                f"{problem} ({words})" if repeat else problem, where=where, remedy=remedy
            )
    return ModelError(
        f"ONNX Runtime refuses the model ({words})",
        where=where,
        remedy="check the file with onnx.checker",
    )


def shorten(message: str, *, folder: Path | None = None) -> str:
    """The first line of a message of ONNX Runtime, without C++ and without paths."""
    line = message.strip().splitlines()[0] if message.strip() else "no message"
    for noise in _NOISE:
        line = noise.sub("", line)
    if folder is not None:
        line = line.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    line = line.strip()
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()}..."
