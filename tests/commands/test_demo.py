"""graphpass demo: it runs out of the box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]


def test_demo(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    result = cli("demo", "--stages", tmp_path / "stages")
    assert result.exit_code == 0
    rows = [line for line in result.stdout.splitlines() if "SNN, T = " in line]
    assert len(rows) == 4
    assert "500 held-out digits" in result.stdout
