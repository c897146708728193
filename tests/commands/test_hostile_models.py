"""What the fuzzing found in models and files of graphpass: one line of error, at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner, Result

from graphpass.cli import main
from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
Check = Callable[..., str]
Npz = tuple[Path, Path]
CNN = digits_model_path("digits_cnn")

ENDLESS = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3] x) => (float[N,3] y) <bool yes = {1}, int64[2] rows = {-1, 3},
    float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
    forever = Loop (, yes, START)
        <body = body (int64 i, bool go, float[N,3] v) => (bool on, float[N,3] u) {
            on = Identity (go)
            u = Abs (v)
        }>
    known = Reshape (forever, rows)
    a = Relu (known)
    b = MatMul (a, w)
    c = Relu (b)
    y = MatMul (c, w)
}"""


@pytest.fixture(scope="module")
def files(digits_npz: Npz, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network in some forms, and its stages."""
    folder = tmp_path_factory.mktemp("files")
    for form in ("int8", "counts", "sorted"):
        options = ["--steps", "4", "--data", digits_npz[0], "--form", form, "--stages", folder]
        arguments = ["convert", CNN, "-o", folder / f"{form}.onnx", *options]
        assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    return folder


@pytest.fixture
def endless(tmp_path: Path) -> Callable[[str], Path]:
    """A model with a Loop that never ends, from its input or from a constant."""

    def make(start: str) -> Path:
        proto = onnx.parser.parse_model(ENDLESS.replace("START", start))
        path = tmp_path / "endless.onnx"
        onnx.save(proto, path)
        np.savez(tmp_path / "x.npz", x=np.ones((4, 3), np.float32))
        return path

    return make


@pytest.mark.parametrize("command", ["evaluate", "bench", "convert"])
def test_loop_without_end(
    command: str, endless: Callable[[str], Path], cli: Cli, one_line_error: Check, tmp_path: Path
) -> None:
    model, data = endless("x"), ("--data", tmp_path / "x.npz")
    options = {"convert": ("-o", tmp_path / "snn.onnx", "--steps", 4)}.get(command, ())
    result = cli("--time-limit", 0.5, command, model, *options, *data)
    one_line_error(result, "took longer than 0.5 s", "--time-limit")
    assert not (tmp_path / "snn.onnx").exists()


def test_constant_loop_without_end_is_not_folded(endless: Callable[[str], Path], cli: Cli) -> None:
    assert cli("inspect", endless("w")).exit_code == 0


@pytest.mark.parametrize("limit", ["-1", "nan", "inf"])
def test_impossible_time_limit(limit: str, cli: Cli) -> None:
    assert cli("--time-limit", limit, "inspect", CNN).exit_code == 2


def _edited(source: Path, path: Path, change: Callable[[onnx.ModelProto, dict[str, Any]], None]):
    """A copy whose graph, and whose metadata as JSON values, are changed."""
    proto = onnx.load(source)
    props = {p.key.removeprefix("graphpass."): p.value for p in proto.metadata_props}
    texts = {k: props[k] for k in ("stage", "form") if k in props}
    values = {k: json.loads(v) for k, v in props.items() if k not in texts}
    change(proto, values)
    del proto.metadata_props[:]
    for key, value in (texts | {k: json.dumps(v) for k, v in values.items()}).items():
        proto.metadata_props.add(key=f"graphpass.{key}", value=value)
    onnx.save(proto, path)
    return path


def _lose_steps(_proto: onnx.ModelProto, values: dict[str, Any]) -> None:
    del values["steps"]


def _rename_spikes(proto: onnx.ModelProto, _values: dict[str, Any]) -> None:
    neuron = next(n for n in proto.graph.node if n.domain == "graphpass")
    neuron.output[-1] = "renamed"


def _other_channels(_proto: onnx.ModelProto, values: dict[str, Any]) -> None:
    neuron = values["neurons"][0]
    for key in ("threshold", "shift", "amplitude"):
        neuron[key] = neuron[key][:3]


def _pool_far_away(_proto: onnx.ModelProto, values: dict[str, Any]) -> None:
    values["neurons"][0]["batch_axis"] = 40


def _drop_parameter(proto: onnx.ModelProto, _values: dict[str, Any]) -> None:
    del next(n for n in proto.graph.node if n.domain == "graphpass").input[-1]


@pytest.mark.parametrize(
    "change", [_lose_steps, _rename_spikes, _other_channels, _pool_far_away, _drop_parameter]
)
@pytest.mark.parametrize("stem", ["sorted", "counts", "3-calibrated", "2-daqcfs"])
def test_damaged_file_in_verify_and_diagnose(
    stem: str,
    change: Callable[[onnx.ModelProto, dict[str, Any]], None],
    files: Path,
    digits_npz: Npz,
    tmp_path: Path,
    cli: Cli,
    one_line_error: Check,
) -> None:
    bad = _edited(files / f"{stem}.onnx", tmp_path / "bad.onnx", change)
    data = ("--data", digits_npz[1], "--samples", 2)
    one_line_error(cli("verify", CNN, bad, *data))
    if stem in ("2-daqcfs", "3-calibrated"):
        one_line_error(cli("verify", bad, files / "counts.onnx", *data))
        one_line_error(cli("convert", bad, "-o", tmp_path / "snn.onnx", *data[:2]))


def test_int8_file_that_lost_its_steps(
    files: Path, digits_npz: Npz, tmp_path: Path, cli: Cli, one_line_error: Check
) -> None:
    bad = _edited(files / "int8.onnx", tmp_path / "bad.onnx", _lose_steps)
    one_line_error(cli("verify", CNN, bad, "--data", digits_npz[1]), "no number of steps")


def test_stage_file_without_shapes(files: Path, digits_npz: Npz, tmp_path: Path, cli: Cli) -> None:
    """Shapes are found anew, whatever the file says of them."""
    proto = onnx.load(files / "0-normalised.onnx")
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "0.onnx")
    options = ("--steps", 4, "--data", digits_npz[0], "--calibrate", "none", "--form", "counts")
    for source in (tmp_path / "0.onnx", files / "0-normalised.onnx"):
        assert cli("convert", source, "-o", tmp_path / source.name[0], *options).exit_code == 0
    result = cli("verify", CNN, tmp_path / "0", "--data", digits_npz[1], "--samples", 4)
    assert result.exit_code == 0


def test_functions_without_end_in_diagnose(
    files: Path, digits_npz: Npz, tmp_path: Path, cli: Cli, one_line_error: Check
) -> None:
    """ONNX Runtime would be busy for ever while it loads the file."""
    proto = onnx.load(files / "sorted.onnx")
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    inner = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    for level in range(40):
        twice = [*inner, onnx.NodeProto.FromString(inner[0].SerializeToString())]
        twice[1].output[0] = "z"
        made = onnx.helper.make_function("own", f"f{level}", ["x"], ["y"], twice, opsets)
        proto.functions.append(made)
        inner = [onnx.helper.make_node(f"f{level}", ["x"], ["y"], domain="own")]
    source = proto.graph.input[0].name
    proto.graph.node.append(onnx.helper.make_node("f39", [source], ["never"], domain="own"))
    proto.opset_import.append(opsets[1])
    onnx.save(proto, tmp_path / "bad.onnx")
    data = ("--data", digits_npz[1])
    for command in ("diagnose", "verify"):
        one_line_error(cli(command, CNN, tmp_path / "bad.onnx", *data), "its functions stand for")
    options = ("-o", tmp_path / "snn.onnx", "--max-drop", 5, *data)
    one_line_error(cli("convert", tmp_path / "bad.onnx", *options), "its functions stand for")
