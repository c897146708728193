"""The group of commands: help, wrong usage, and what a shell sees of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
COMMANDS = ("convert", "inspect", "verify", "evaluate", "demo")
CNN = digits_model_path("digits_cnn")


def test_help_of_every_command(cli: Cli) -> None:
    overview = cli("--help")
    assert overview.exit_code == 0
    for command in COMMANDS:
        assert command in overview.output
        for flag in ("--help", "-h"):
            result = cli(command, flag)
            assert result.exit_code == 0
            assert result.output.startswith("Usage: ")
    assert cli("--version").output.startswith("main, version ") or "version" in (
        cli("--version").output
    )


def test_no_command_shows_the_overview(cli: Cli) -> None:
    assert "Usage: " in cli().output


def test_help_needs_no_onnxruntime_and_no_torch() -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = sys.modules['torch'] = None;"
        "from graphpass.cli import main; main(['convert', '--help'])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--steps" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("convert",), ("convert", "x.onnx"), ("nonsense",), ("evaluate", "x.onnx")],
    ids="-".join,
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], cli: Cli) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert result.stdout == ""


def test_interrupt_exits_with_130(
    cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import graphpass.pipeline

    def interrupt(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graphpass.pipeline.stages, "calibrate", interrupt)
    arguments = ("convert", CNN, "-o", tmp_path / "snn.onnx", "--steps", 4)
    result = cli(*arguments, "--data", digits_npz[0])
    assert result.exit_code == 130
    assert result.stderr == "interrupted: nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_json_of_a_subprocess_is_all_of_its_output(
    subprocess_cli: Callable[..., subprocess.CompletedProcess[str]],
    digits_npz: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    done = subprocess_cli(
        *("convert", CNN, "-o", "snn.onnx", "--steps", 2, "--data", digits_npz[0], "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar, no warning
    assert json.loads(done.stdout)["output"] == "snn.onnx"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snn.onnx"]


def test_error_of_a_subprocess_is_one_line(
    subprocess_cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "ann.onnx").write_bytes(b"no model at all")
    done = subprocess_cli("convert", "ann.onnx", "-o", "snn.onnx", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ann.onnx: ")
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["ann.onnx"]


def test_memory_that_is_not_there_is_one_line(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_args: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("graphpass.inspection.inspect", too_much)
    result = cli("inspect", CNN)
    assert result.exit_code == 2
    assert result.stderr == "error: not enough memory; use smaller batches or inputs\n"
