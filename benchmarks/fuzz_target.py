"""One hostile input: run a command on it and judge what came of it."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_commands
import numpy as np
import onnx
import onnxruntime
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from graphpass import verify
from graphpass.cli import main
from graphpass_runtime.errors import GraphpassError
from graphpass_runtime.execution import time_limit
from graphpass_runtime.feeds import TensorSpec
from graphpass_runtime.session import Session

_MEMORY = 8 << 30  # bytes of address space: what asks for more must fail, not fill the machine
_WRITING = {"os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "shutil.rmtree"}
_TIME_LIMIT = 5  # seconds for a run of ONNX Runtime: some mutants never end
_JUDGING = 4  # so many times as long for a converted file and for its ANN, on a busy machine
_VERIFIED = 0.2  # share of converted files that are compared with their ANN

_OF_TORCH = ("torchinductor_root",)  # which it leaves behind

_outside: list[str] = []


@dataclass(frozen=True)
class Finding:
    """How an input went: outcome, details, and whether it is a defect."""

    outcome: str
    detail: str = ""
    wrong: bool = False


def guard(folder: Path) -> None:
    """Bound this process's memory, and note every file that it writes outside of a folder."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("always")

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITE_FLAGS
        if event == "os.remove" and arguments[1] != -1:
            return  # `shutil.rmtree`, which has its own event, names files within folders
        if (writes or event in _WRITING) and isinstance(arguments[0], str | bytes):
            path = Path(os.fsdecode(arguments[0])).absolute()
            if folder not in (path, *path.parents) and path != Path(os.devnull):
                _outside.append(f"{event} {path}")

    sys.addaudithook(audit)


_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(base: Path, mutant: Path, rng: np.random.Generator) -> Finding:
    """Run one command that suits the file the mutant was made from."""
    place = fuzz_commands.Place(base, mutant)
    for folder in (place.output.parent, place.temporary):
        folder.mkdir()
    output, tempfile.tempdir = place.output, str(place.temporary)
    arguments = fuzz_commands.choose(place, rng)
    place.command.write_text(json.dumps(arguments), encoding="utf-8")
    _outside.clear()
    before = sorted(mutant.parent.rglob("*"))
    result = CliRunner().invoke(main, ["--time-limit", str(_TIME_LIMIT), *arguments])
    found = _judge(result, output)
    if not found.wrong and _outside:
        found = Finding("write outside", "\n".join(_outside), wrong=True)
    if not found.wrong and sorted(mutant.parent.rglob("*")) != before:
        found = Finding("write outside", "beside the model", wrong=True)
    left = [path for path in place.temporary.iterdir() if path.name not in _OF_TORCH]
    if not found.wrong and left:
        found = Finding("temporary file left", str(left[0]), wrong=True)
    if found.outcome == "converted":
        same = "fp16" not in arguments  # a close network only
        with time_limit(_JUDGING * _TIME_LIMIT):
            verified = same and rng.random() < _VERIFIED
            found = _judge_output(mutant, output, base, verified=verified)
    return Finding(f"{arguments[0]}: {found.outcome}" if not found.wrong else found.outcome,
                   found.detail, found.wrong)  # fmt: skip


def _judge(result: Result, output: Path) -> Finding:
    lines = result.stderr.splitlines()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return Finding("traceback", "".join(traceback.format_exception(result.exception)), True)
    if result.exit_code == 0:
        if result.stderr:
            return Finding("stray output", result.stderr, wrong=True)
        return Finding("converted" if output.exists() else "done")
    if result.exit_code == 1 and "equal" in result.stdout and not lines:
        return Finding("differs")  # what `verify` says of two networks
    if result.exit_code != 2 or not lines or not lines[-1].startswith("error: "):
        return Finding("no one-line error", result.output, wrong=True)
    if not all(c.isprintable() for c in "".join(lines)) or "Warning" in result.stderr:
        return Finding("stray output", result.stderr, wrong=True)
    if sorted(output.parent.iterdir()):
        return Finding("partial output", lines[-1], wrong=True)
    return Finding(f"refused, {_refusal(lines[-1])}")


def _refusal(line: str) -> str:
    """The kind of an error, from what it says after the name of the file."""
    kinds = {
        "not an ONNX file": "no ONNX file",
        "no graph with nodes": "no ONNX file",
        "is not valid ONNX": "not valid ONNX",
        "weight '": "not valid ONNX",
        "external data": "external data",
        "metadata": "damaged metadata",
        "opset": "opset or IR version",
        "IR version": "opset or IR version",
        "is an SNN already": "not an ANN",
        "no activation": "no activation",
        "and reads spikes": "not linear",
        "export": "not convertible",
        "ONNX Runtime": "ONNX Runtime does not run it",
        "--data": "data",
        "took longer than": "no end within the time limit",
    }
    return next((kind for words, kind in kinds.items() if words in line), "other")


def _judge_output(mutant: Path, output: Path, base: Path, *, verified: bool) -> Finding:
    """A converted file must be valid, run, and compute what the ANN computes."""
    data = base.with_suffix(".npz")
    if [p.name for p in output.parent.iterdir()] != [output.name]:
        return Finding("partial output", "more files than asked for", wrong=True)
    invalid = _invalid(output)
    if invalid is not None and _invalid(mutant) is None:
        return Finding("output that onnx.checker rejects", invalid, wrong=True)
    if (reason := _unusable(output, data)) is not None:
        if _unusable(mutant, data) is None and _consistent(mutant, data):
            return Finding("output that does not run", reason, wrong=True)
        return Finding("converted, runs no more than its input")
    if invalid is not None:
        return Finding("converted, like its input only valid to ONNX Runtime")
    if verified:
        return _verified(mutant, output, base)
    return Finding("converted")


def _verified(mutant: Path, output: Path, base: Path) -> Finding:
    if base.with_suffix(".ann").exists():
        return Finding("converted")
    try:
        found = verify(mutant, output, base.with_suffix(".npz"))
    except GraphpassError as error:
        return Finding("converted, not comparable", str(error))
    except Exception:  # any other is a defect
        return Finding("traceback", traceback.format_exc(), wrong=True)
    if not found.equal:
        return Finding("wrong output", str(found), wrong=True)
    return Finding("converted and verified")


def _invalid(path: Path) -> str | None:
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker raises several kinds
        return str(error)
    return None


def _unusable(path: Path, data: Path) -> str | None:
    """Why ONNX Runtime does not load the file, or does not run it on one sample as declared."""
    try:
        session, arrays = Session(path, provider="cpu", threads=1), np.load(data)
        found = session.run({spec.name: arrays[spec.name][:1] for spec in session.inputs})
    except (GraphpassError, KeyError) as error:
        return str(error)
    for name, sizes in _declared(path):
        if name in found and not _fits(found[name], sizes):  # a state is no output
            return f"{path}: output '{name}' has other sizes than declared"
    return None


def _consistent(path: Path, data: Path) -> bool:
    """Do the sizes in the file hold without what ONNX Runtime's optimiser takes away?"""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    arrays = np.load(data)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, {value.name: arrays[value.name][:1] for value in session.get_inputs()})
    except Exception:  # ONNX Runtime's own share no other base
        return False
    return True


def _declared(path: Path) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Sizes of the outputs as the file has them: a session may know better."""
    for output in onnx.load(path, load_external_data=False).graph.output:
        kind = output.type.tensor_type
        if kind.HasField("shape"):
            dims = kind.shape.dim
            yield output.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def _fits(array: NDArray[Any], sizes: tuple[int | None, ...]) -> bool:
    """Whether an array has these sizes, and for no sizes is a single number."""
    return array.ndim == len(sizes) and TensorSpec("", array.dtype, sizes).fits(array.shape)
