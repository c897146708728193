"""graphpass convert: its output, its JSON and its options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
CNN = digits_model_path("digits_cnn")
PAPER = ("--calibrate", "paper", "--json")
ACTIVATION_KEYS = [
    *("name", "operator", "status", "reason"),
    *("channels", "threshold_min", "threshold_max", "work"),
]


def test_convert_json(cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "snn.onnx"
    result = cli("convert", CNN, "-o", output, "--steps", 4, "--data", digits_npz[0], *PAPER)
    assert result.exit_code == 0
    assert result.stderr == ""
    shown = json.loads(result.stdout)
    assert list(shown) == ["output", "steps", "form", "calibration", "activations", "diagnosis"]
    assert shown["output"] == str(output)
    assert (shown["steps"], shown["form"]) == (4, "matmul")
    assert shown["calibration"] == {
        "rule": "paper",
        "samples": 100,
        "batch": 10,
        "passes": 1,
        "batches": 10,
        "recovered": round(1 - 0.99**10, 4),
    }
    assert [list(a) for a in shown["activations"]] == [ACTIVATION_KEYS] * 4
    first, *others = shown["activations"]
    assert first["status"] == "kept"
    assert "first activation" in first["reason"]
    assert [a["status"] for a in others] == ["converted"] * 3
    assert [a["channels"] for a in others] == [16, 16, 32]
    assert all(0 < a["threshold_min"] < a["threshold_max"] for a in others)
    assert all(a["operator"] == "Relu" for a in shown["activations"])


def test_convert_prints_a_table_and_advice(
    cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ("convert", CNN, "-o", tmp_path / "snn.onnx", "--steps", 4)
    arguments = (*arguments, "--calibrate", "paper")
    result = cli(*arguments, "--data", digits_npz[0])
    assert result.exit_code == 0
    assert "converted" in result.stdout
    assert "3 of 4 activations converted" in result.stdout.replace("\n", " ")
    assert "10 batches recover 10 %" in result.stdout
    settled = cli(*arguments, "--data", digits_npz[0], "--passes", 30)
    assert "recover" not in settled.stdout
    assert "recover" not in cli(*arguments, "--data", digits_npz[0], "--calibrate", "none").stdout


@pytest.mark.parametrize("form", ["matmul", "counts"])
def test_options_reach_the_conversion(
    form: str, cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    result = cli(
        *("convert", CNN, "-o", tmp_path / "snn.onnx", "--steps", 2, "--data", digits_npz[0]),
        *("--samples", 24, "--calib-batch", 7, "--passes", 3, "--form", form),
        *("--first-activation", "spiking", "--keep", "/act2/Relu_output_0"),
        *("--stages", tmp_path / "stages", "--provider", "cpu", "--threads", 1, *PAPER),
    )
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["form"] == form
    assert shown["calibration"]["samples"] == 24
    assert shown["calibration"]["batches"] == 12
    statuses = [a["status"] for a in shown["activations"]]
    assert statuses == ["converted"] * 3 + ["kept"]
    assert len(list((tmp_path / "stages").iterdir())) == 5


@pytest.mark.parametrize("options", [(), ("--population", 5), ("--population", 1), PAPER])
def test_population(
    options: tuple[object, ...], cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    """The last of the digits network's layers is read by a small classifier alone.

    Twice as much more work has room for another layer.
    """
    arguments = ("convert", CNN, "-o", tmp_path / "snn.onnx", "--steps", 4, "--form", "counts")
    result = cli(*arguments, "--data", digits_npz[0], *options, "--json")
    assert result.exit_code == 0, result.output
    found = [a["reason"] for a in json.loads(result.stdout)["activations"]]
    sizes = {(): (2, 1, 3), ("--population", 5): (1, 2, 5)}.get(options, (1, 1, 1))
    assert found[1:] == ["" if n == 1 else f"{n} neurons for each value" for n in sizes]


def test_max_drop(cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "snn.onnx"
    common = ("convert", CNN, "-o", target, "--data", digits_npz[0], "--eval-data", digits_npz[1])
    result = cli(*common, "--max-drop", 3)
    assert result.exit_code == 0
    assert "loss of accuracy on 60 samples" in result.output
    assert "within, chosen" in result.output
    found = json.loads(cli(*common, "--max-drop", 3, "--json").stdout)
    assert found["search"]["steps"] == found["steps"]
    tried = {trial["steps"]: trial["loss"] for trial in found["search"]["tried"]}
    assert tried[found["steps"]] <= 3


def test_max_drop_in_one_line(
    cli: Cli,
    one_line_error: Callable[..., str],
    digits_npz: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    common = ("convert", CNN, "-o", tmp_path / "snn.onnx", "--data", digits_npz[0])
    one_line_error(cli(*common, "--max-drop", 1, "--steps", 4), "drop --steps")
    one_line_error(cli(*common, "--eval-data", digits_npz[1], "--steps", 4), "add --max-drop")
    assert list(tmp_path.iterdir()) == []


def test_steps_for_each_layer(cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    common = ("convert", CNN, "-o", tmp_path / "snn.onnx", "--data", digits_npz[0])
    result = cli(*common, "--steps", "auto", "--budget", 3)
    assert result.exit_code == 0
    for words in ("in the mean", "synaptic work", "error alone"):
        assert words in result.output
    found = json.loads(cli(*common, "--steps", "auto", "--budget", 3, "--json").stdout)
    assert found["steps"] == max(found["allocation"]["steps"].values())
    assert found["allocation"]["mean"] <= 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "auto"), "belong together"),
        (("--budget", 3), "belong together"),
        (("--steps", 3, "--budget", 3), "belong together"),
        (("--steps", "auto", "--budget", 3, "--max-drop", 1), "drop --steps"),
        (("--steps", "auto", "--budget", 3, "--method", "qcfs"), "one --steps T for all layers"),
    ],
)
def test_ways_to_choose_steps_exclude_each_other(
    options: tuple[object, ...],
    words: str,
    cli: Cli,
    one_line_error: Callable[..., str],
    digits_npz: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    arguments = ("convert", CNN, "-o", tmp_path / "snn.onnx", "--data", digits_npz[0])
    one_line_error(cli(*arguments, *options), words)
    assert list(tmp_path.iterdir()) == []
