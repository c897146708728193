"""A small part of `benchmarks/fuzz.py`, always the same: no traceback, no hang, no crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "benchmarks" / "fuzz.py"


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the workers are forked")


def _run(tmp_path: Path, *options: object) -> None:
    command = [sys.executable, FUZZ, "--keep", tmp_path / "findings", *options]
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| traceback | 0 |" in result.stdout
    assert not (tmp_path / "findings").exists()


def test_models_of_the_repository(tmp_path: Path) -> None:
    _run(tmp_path, "--count", 80, "--seed", 1)


def test_models_of_the_shared_corpus(tmp_path: Path, shared_data: Path) -> None:
    _run(tmp_path, "--count", 60, "--seed", 2, "--shared", shared_data)
