"""The picture of the accuracies: what is in it, and the same bytes for the same tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="plots need the extra 'bench'")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plot_accuracy.py"
HEAD = "Measured somewhere.\n\n| model | rule | ANN | T=4 | T=8 |\n|---|---|---|---|---|\n"
FIRST = HEAD + "| a_net | paper | 90.00 | 60.00 | 80.00 |\n<!-- a_net, data-free: no -->\n"
SECOND = HEAD + "| a_net | none | 90.00 | 50.00 | 70.00 |\n| b_net | none | 80.00 | 1.00 | 2.00 |\n"


def _plot(output: Path, *tables: str) -> subprocess.CompletedProcess[str]:
    files = [output.with_suffix(f".{i}.md") for i in range(len(tables))]
    for file, table in zip(files, tables, strict=True):
        file.write_text(table)
    return subprocess.run(
        [sys.executable, SCRIPT, *files, "-o", output], capture_output=True, text=True, check=False
    )


def test_every_model_and_rule_is_drawn(tmp_path):
    output = tmp_path / "accuracy.svg"
    assert _plot(output, FIRST, SECOND).returncode == 0
    drawn = output.read_text()
    for text in ("a_net", "b_net", "paper", "none", "ANN"):
        assert f">{text}</text>" in drawn
    assert "no -->" not in drawn


def test_same_tables_same_bytes(tmp_path):
    outputs = [tmp_path / "first.svg", tmp_path / "second.svg"]
    for output in outputs:
        assert _plot(output, FIRST, SECOND).returncode == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_file_without_a_table_is_refused(tmp_path):
    result = _plot(tmp_path / "accuracy.svg", "nothing here\n")
    assert result.returncode == 1
    assert "no table of accuracy.py" in result.stderr
    assert not (tmp_path / "accuracy.svg").exists()
