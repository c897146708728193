"""graphpass verify: its verdict and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path
from graphpass_runtime.metadata import FileRecord

Cli = Callable[..., Result]
Check = Callable[..., str]
CNN = digits_model_path("digits_cnn")
QCFS = digits_model_path("digits_qcfs_l8")

VERIFY_KEYS = [
    *("samples", "layers", "counts_compared", "origin_near_tie", "origin_within_rounding"),
    *(
        "origin_unexplained",
        "downstream",
        "samples_diverged",
        "max_abs_diff",
        "argmax_agreement",
        "equal",
    ),
]


def test_verify_json(cli: Cli, snn: Path, digits_npz: tuple[Path, Path]) -> None:
    result = cli("verify", CNN, snn, "--data", digits_npz[1], "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert list(shown) == VERIFY_KEYS
    assert (shown["samples"], shown["layers"], shown["equal"]) == (60, 3, True)
    assert shown["origin_unexplained"] == 0
    assert "equal" in cli("verify", CNN, snn, "--data", digits_npz[1]).stdout


@pytest.mark.parametrize("flags", [(), ("--strict",)])
@pytest.mark.parametrize("as_json", [False, True])
def test_verify_of_a_tampered_file_exits_with_1(
    flags: tuple[str, ...],
    as_json: bool,
    cli: Cli,
    snn: Path,
    digits_npz: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    proto = onnx.load(snn)
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    node = next(n for n in proto.graph.node if n.output[0] == record.neurons[1].name)
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[1])
    array = (onnx.numpy_helper.to_array(tensor) * np.float32(1.1)).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, tmp_path / "bad.onnx")
    flags = (*flags, *(["--json"] if as_json else []))
    result = cli("verify", CNN, tmp_path / "bad.onnx", "--data", digits_npz[1], *flags)
    assert result.exit_code == 1
    assert result.stderr == ""
    if as_json:
        shown = json.loads(result.stdout)
        assert shown["equal"] is False
        assert shown["origin_unexplained"] > 0
    else:
        assert "False" in result.stdout


INT8_KEYS = [
    *("kind", "samples", "layers", "integer_layers", "levels_compared", "level_near_tie"),
    *("level_wrong", "output_error", "integers_changed", "argmax_agreement"),
    *("output_relative_error", "equal", "wrong", "changed", "agreement"),
]


def test_verify_of_int8(cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    """Exit code 0 for a close network; 1 when its integers are not those of the ANN."""
    snn, bad = tmp_path / "int8.onnx", tmp_path / "bad.onnx"
    made = cli("convert", CNN, "-o", snn, "--steps", 8, "--data", digits_npz[0], "--form", "int8")
    assert made.exit_code == 0
    result = cli("verify", CNN, snn, "--data", digits_npz[1], "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert list(shown) == INT8_KEYS
    assert (shown["kind"], shown["equal"]) == ("close network, judged by accuracy", True)
    assert (shown["level_wrong"], shown["integers_changed"], shown["changed"]) == (0, 0, [])
    assert [layer["counts"] > 0 for layer in shown["agreement"]] == [True] * 3
    assert 0 < shown["agreement"][-1]["differ"] < 0.5

    proto = onnx.load(snn)
    tensor = next(t for t in proto.graph.initializer if t.name.endswith("int8_weight"))
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight.flat[3] ^= 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(proto, bad)
    result = cli("verify", CNN, bad, "--data", digits_npz[1], "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["changed"] == [tensor.name]
    result = cli("verify", CNN, bad, "--data", digits_npz[1])
    assert result.exit_code == 1
    assert "judged by accuracy" in result.stdout
    assert "by more than 1" in result.stdout


def test_verify_of_int8_has_no_strict_mode(
    one_line_error: Check, cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    snn = tmp_path / "int8.onnx"
    cli("convert", CNN, "-o", snn, "--steps", 8, "--data", digits_npz[0], "--form", "int8")
    result = cli("verify", CNN, snn, "--data", digits_npz[1], "--strict")
    one_line_error(result, "leave --strict out")
    one_line_error(cli("verify", snn, snn, "--data", digits_npz[1]), "give it second")


def test_verify_against_something_else(
    one_line_error: Check, cli: Cli, snn: Path, digits_npz: tuple[Path, Path]
) -> None:
    result = cli("verify", QCFS, snn, "--data", digits_npz[1])
    one_line_error(result, "writes no activation")
    result = cli("verify", CNN, CNN, "--data", digits_npz[1])
    one_line_error(result, "has no spiking neurons")
