"""graphpass evaluate: accuracy, and agreement with a reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
Check = Callable[..., str]
CNN = digits_model_path("digits_cnn")


def test_evaluate_json(cli: Cli, snn: Path, digits_npz: tuple[Path, Path]) -> None:
    result = cli("evaluate", snn, "--data", digits_npz[1], "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    keys = ["model", "samples", "accuracy", "accuracy_stderr", "top5", "provider"]
    assert list(shown) == keys
    assert shown["model"] == str(snn)
    assert shown["samples"] == 60
    right = shown["accuracy"] * 60
    assert right == pytest.approx(round(right))
    assert shown["accuracy"] > 0.8
    variance = shown["accuracy"] * (1 - shown["accuracy"]) / 60
    assert shown["accuracy_stderr"] == pytest.approx(variance**0.5)
    compared = cli("evaluate", snn, "--data", digits_npz[1], "--reference", CNN, "--json")
    both = json.loads(compared.stdout)
    assert list(both) == [*keys, "agreement", "output_relative_error"]
    assert {key: both[key] for key in keys} == shown
    assert 0 < both["output_relative_error"] < 1
    itself = json.loads(
        cli("evaluate", CNN, "--data", digits_npz[1], "--reference", CNN, "--json").stdout
    )
    assert (itself["agreement"], itself["output_relative_error"]) == (1.0, 0.0)


def test_evaluate_without_labels(
    cli: Cli, snn: Path, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "plain.npz", image=np.load(digits_npz[1])["image"])
    arguments = ("evaluate", snn, "--data", tmp_path / "plain.npz", "--reference", CNN)
    shown = json.loads(cli(*arguments, "--json").stdout)
    assert shown["accuracy"] is shown["top5"] is shown["accuracy_stderr"] is None
    assert shown["agreement"] > 0.8
    table = cli(*arguments).stdout
    assert "agreement with the reference" in table
    assert "top-5" not in table


def test_evaluate_against_a_model_with_other_inputs(
    one_line_error: Check,
    cli: Cli,
    snn: Path,
    digits_npz: tuple[Path, Path],
    write_model: Callable[..., Path],
) -> None:
    other = write_model("g (float[N,3] z) => (float[N,3] y) { y = Relu(z) }")
    result = cli("evaluate", snn, "--data", digits_npz[1], "--reference", other)
    one_line_error(result)
