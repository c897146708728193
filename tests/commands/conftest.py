"""Running commands, in this process or in another, and what a failure looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from graphpass.cli import main
from graphpass_models.digits import digits_model_path

CNN = digits_model_path("digits_cnn")
Cli = Callable[..., Result]
Check = Callable[..., str]
Refuse = Callable[..., str]


@pytest.fixture
def cli() -> Cli:
    """Run a command in this process; what escapes it is raised."""

    def run(*arguments: object) -> Result:
        texts = [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments]
        return CliRunner().invoke(main, texts, catch_exceptions=False)

    return run


@pytest.fixture
def subprocess_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        program = "from graphpass.cli import main; main(prog_name='graphpass')"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    return run


@pytest.fixture(scope="session")
def snn(digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network at T = 4; the tests only read it."""
    path = tmp_path_factory.mktemp("cli") / "snn.onnx"
    arguments = ["convert", str(CNN), "-o", str(path), "--steps", "4"]
    result = CliRunner().invoke(main, [*arguments, "--data", str(digits_npz[0])])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def one_line_error() -> Check:
    """Check that a run failed as a run should fail; give its error."""

    def check(result: Result, *words: str) -> str:
        assert result.exit_code == 2, result.output
        lines = result.stderr.splitlines()
        assert lines, "nothing on stderr"
        assert lines[-1].startswith("error: ")
        assert "Traceback" not in result.output
        assert all(c.isprintable() for c in lines[-1])
        for word in words:
            assert word in lines[-1], lines[-1]
        assert len(lines) == 1, result.stderr
        assert result.stdout == ""
        return lines[-1]

    return check


@pytest.fixture
def refuse(
    cli: Cli, one_line_error: Check, digits_npz: tuple[Path, Path], tmp_path: Path
) -> Refuse:
    """Convert something, expect one line of error and no new file; give the line."""

    def run(ann: Path = CNN, *words: str, options: tuple[object, ...] = (), **change: Any) -> str:
        output = change.get("output", tmp_path / "out" / "snn.onnx")
        if "output" not in change:
            output.parent.mkdir()
        data = ("--data", change.get("data", digits_npz[0]))
        steps = change.get("steps", ("--steps", 4))
        before = sorted(tmp_path.rglob("*"))
        result = cli("convert", ann, "-o", output, *steps, *data, *options)
        line = one_line_error(result, *words)
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run
