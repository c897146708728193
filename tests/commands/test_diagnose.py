"""`graphpass diagnose`, and the diagnosis that `graphpass convert` prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path

CNN = digits_model_path("digits_cnn")
Cli = Callable[..., Result]


def test_table(cli: Cli, snn: Path, digits_npz: tuple[Path, Path]) -> None:
    result = cli("diagnose", CNN, snn, "--data", digits_npz[1], "--samples", 10)
    assert result.exit_code == 0
    for words in ("lost", "current dB", "saturated", "silent", "10 samples: relative error"):
        assert words in result.output
    assert len([line for line in result.output.splitlines() if line.count("%") >= 4]) == 3


def test_json_is_sorted_by_damage(cli: Cli, snn: Path, digits_npz: tuple[Path, Path]) -> None:
    result = cli("diagnose", CNN, snn, "--data", digits_npz[1], "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    shares = [layer["share"] for layer in found["layers"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0)
    assert found["samples"] == 32
    again = cli("diagnose", CNN, snn, "--data", digits_npz[1], "--json")
    assert again.stdout == result.stdout


def test_files_in_the_wrong_order(
    cli: Cli, snn: Path, digits_npz: tuple[Path, Path], one_line_error: Callable[..., str]
) -> None:
    one_line_error(
        cli("diagnose", snn, CNN, "--data", digits_npz[1]), "no spiking neurons", "convert"
    )
    one_line_error(cli("diagnose", snn, snn, "--data", digits_npz[1]), "stage 4-spiking")


@pytest.mark.parametrize("stage", [None, "0-normalised", "1-clip"])
def test_convert_says_which_layer_lost_it(
    stage: str | None, cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ("--steps", 2, "--data", digits_npz[0], "--stages", tmp_path)
    result = cli("convert", CNN, "-o", tmp_path / "a.onnx", *options)
    assert "lost" in result.output
    assert "16 samples: relative error of the output" in result.output
    start = CNN if stage is None else tmp_path / f"{stage}.onnx"
    result = cli("convert", start, "-o", tmp_path / "b.onnx", *options, "--json")
    found = json.loads(result.stdout)["diagnosis"]
    assert found["samples"] == 16
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1.0)
    without = cli("convert", start, "-o", tmp_path / "c.onnx", *options, "--json", "--no-diagnose")
    assert json.loads(without.stdout)["diagnosis"] is None
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()


def test_convert_without_what_it_takes(
    cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    """A serial network is another one, and stage 2 has lost the ANN's activations."""
    common = ("-o", tmp_path / "a.onnx", "--data", digits_npz[0], "--json")
    serial = cli("convert", CNN, *common, "--steps", 2, "--method", "qcfs", "--stages", tmp_path)
    assert json.loads(serial.stdout)["diagnosis"] is None
    later = cli("convert", tmp_path / "2-daqcfs.onnx", *common)
    assert json.loads(later.stdout)["diagnosis"] is None
