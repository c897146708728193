"""The command line: output, JSON, exit codes, and one line for everything that goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from graphpass.cli import main
from graphpass_models.digits import digits_model_path
from graphpass_runtime.metadata import FileRecord

CNN = digits_model_path("digits_cnn")
QCFS = digits_model_path("digits_qcfs_l8")
COMMANDS = ("convert", "inspect", "verify", "evaluate", "demo")

Cli = Callable[..., Result]


@pytest.fixture
def cli() -> Cli:
    """Run a command in this process; what escapes it is raised."""

    def run(*arguments: object) -> Result:
        texts = [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments]
        return CliRunner().invoke(main, texts, catch_exceptions=False)

    return run


@pytest.fixture(scope="module")
def snn(digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "snn.onnx"
    arguments = ["convert", str(CNN), "-o", str(path), "--steps", "4"]
    result = CliRunner().invoke(main, [*arguments, "--data", str(digits_npz[0])])
    assert result.exit_code == 0, result.output
    return path


def subprocess_cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    program = "from graphpass.cli import main; main(prog_name='graphpass')"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def one_line_error(result: Result, *words: str) -> str:
    """The error of a run that failed as a run should fail."""
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


ACTIVATION_KEYS = [
    *("name", "operator", "status", "reason"),
    *("channels", "threshold_min", "threshold_max"),
]


def test_convert_json(cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "snn.onnx"
    result = cli("convert", CNN, "-o", output, "--steps", 4, "--data", digits_npz[0], "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    shown = json.loads(result.stdout)
    assert list(shown) == ["output", "steps", "form", "calibration", "activations"]
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
        *("--stages", tmp_path / "stages", "--provider", "cpu", "--threads", 1, "--json"),
    )
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["form"] == form
    assert shown["calibration"]["samples"] == 24
    assert shown["calibration"]["batches"] == 12
    statuses = [a["status"] for a in shown["activations"]]
    assert statuses == ["converted"] * 3 + ["kept"]
    assert len(list((tmp_path / "stages").iterdir())) == 5


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


VERIFY_KEYS = [
    *("samples", "layers", "counts_compared", "origin_near_tie", "origin_unexplained"),
    *("downstream", "samples_diverged", "max_abs_diff", "argmax_agreement", "equal"),
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


def test_inspect(cli: Cli, snn: Path) -> None:
    shown = json.loads(cli("inspect", CNN, "--json").stdout)
    assert {"model", "stage", "steps", "opset", "inputs", "outputs", "activations"} <= set(shown)
    assert (shown["model"], shown["stage"], shown["steps"]) == ("digits_cnn.onnx", None, None)
    assert [list(a) for a in shown["activations"]] == [ACTIVATION_KEYS] * 4
    assert shown["convertible"] is True
    spiking = json.loads(cli("inspect", snn, "--json").stdout)
    assert (spiking["stage"], spiking["form"], spiking["steps"]) == ("4-spiking", "matmul", 4)
    text = cli("inspect", CNN).stdout
    assert "digits_cnn.onnx: ANN, opset 17" in text
    assert "/act2/Relu_output_0" in text


def test_demo(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    result = cli("demo", "--stages", tmp_path / "stages")
    assert result.exit_code == 0
    rows = [line for line in result.stdout.splitlines() if "SNN, T = " in line]
    assert len(rows) == 4
    assert "500 held-out digits" in result.stdout


def test_json_of_a_subprocess_is_all_of_its_output(
    digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    done = subprocess_cli(
        *("convert", CNN, "-o", "snn.onnx", "--steps", 2, "--data", digits_npz[0], "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar, no warning
    assert json.loads(done.stdout)["output"] == "snn.onnx"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snn.onnx"]


def test_error_of_a_subprocess_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ann.onnx").write_bytes(b"no model at all")
    done = subprocess_cli("convert", "ann.onnx", "-o", "snn.onnx", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ann.onnx: ")
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["ann.onnx"]


# Bad input, each of it one line, exit code 2, and nothing written.


@pytest.fixture
def refuse(cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path) -> Callable[..., str]:
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


Refuse = Callable[..., str]


def test_not_an_onnx_file(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "ann.onnx"
    path.write_bytes(b"this is a text file, and no model")
    refuse(path, "ann.onnx: ", "not an ONNX file")


def test_empty_file_and_missing_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, words in (("empty.onnx", "no graph"), ("none.onnx", "no such file")):
        for command in (
            ("convert", tmp_path / name, "-o", tmp_path / "snn.onnx", "--steps", 4),
            ("inspect", tmp_path / name),
        ):
            one_line_error(cli(*command), name, words)
    assert [p.name for p in tmp_path.iterdir()] == ["empty.onnx"]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_file(share: float, refuse: Refuse, tmp_path: Path) -> None:
    content = CNN.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(share * len(content))])
    refuse(path, "cut.onnx: ", "cut short")


def test_missing_external_data(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save_model(
        onnx.load(CNN), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    (tmp_path / "big.data").unlink()
    refuse(path, "big.onnx: ", "external data", "big.data", "put the data file beside the model")


def test_external_data_cut_short(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save_model(
        onnx.load(CNN), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    content = (tmp_path / "big.data").read_bytes()
    (tmp_path / "big.data").write_bytes(content[: len(content) // 2])
    refuse(path, "big.onnx")


def test_external_data_that_is_there(
    cli: Cli,
    digits_npz: tuple[Path, Path],
    snn: Path,
    bare_run: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "big.onnx"
    onnx.save_model(
        onnx.load(CNN), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    output = tmp_path / "snn.onnx"
    result = cli("convert", path, "-o", output, "--steps", 4, "--data", digits_npz[0])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.data", "big.onnx", "snn.onnx"]
    feeds = {"image": np.load(digits_npz[1])["image"]}
    (tmp_path / "big.data").unlink()  # the SNN is whole in itself
    assert (bare_run(output, feeds)["logits"] == bare_run(snn, feeds)["logits"]).all()


def test_no_activation(refuse: Refuse, write_model: Callable[..., Path]) -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { a = Sigmoid(x) y = Tanh(a) }"
    words = "has no activation to convert (only Sigmoid, Tanh)"
    refuse(write_model(text), "ann.onnx: ", words)


BLOCKED = """g (float[N,3] x) => (float[N,3] y) {
    r1 = Relu(x)
    a = MatMul(r1, w)
    r2 = Relu(a)
    [the_sigmoid] b = Sigmoid(r2)
    c = MatMul(b, w)
    r3 = Relu(c)
    y = MatMul(r3, w)
}"""


def test_unsupported_operator_between_neurons(
    cli: Cli, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    ann = write_model(BLOCKED, {"w": np.eye(3, dtype=np.float32)})
    for flags in ((), ("--json",)):
        result = cli("convert", ann, "-o", tmp_path / "snn.onnx", "--steps", 4, *flags)
        assert result.exit_code == 2
        assert result.stdout == ""
        *table, error = result.stderr.splitlines()
        assert error.startswith("error: ann.onnx: Sigmoid node 'the_sigmoid' is not linear")
        text = "\n".join(table)
        for name, verdict in (("r1", "kept"), ("r2", "converted"), ("r3", "converted")):
            assert any(name in line and verdict in line for line in table)
        assert "Sigmoid" in text
        assert "refused" in text
    assert [p.name for p in tmp_path.iterdir()] == ["ann.onnx"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((4, 1, 9, 8), np.float32)}, ("image", "[4,1,9,8]")),
        ({"image": np.zeros((4, 1, 8, 8), np.float64)}, ("image", "float64")),
        ({"image": np.zeros((4, 8, 8), np.float32)}, ("image",)),
        ({"picture": np.zeros((4, 1, 8, 8), np.float32)}, ("image", "picture")),
        ({"image": np.full((4, 1, 8, 8), np.nan, np.float32)}, ("image",)),
        ({"image": np.full((4, 1, 8, 8), np.inf, np.float32)}, ("image",)),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, ("no samples",)),
        ({"image": np.array([{"a": 1}], dtype=object)}, ("data.npz",)),
        ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, ("mean and std",)),
    ],
    ids="shape dtype rank name nan inf empty pickled images".split(),
)
def test_data_that_does_not_fit(
    arrays: dict[str, Any], words: tuple[str, ...], refuse: Refuse, tmp_path: Path
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    refuse(CNN, *words, data=path)


def test_nan_in_the_last_batch(refuse: Refuse, tmp_path: Path) -> None:
    images = np.zeros((35, 1, 8, 8), np.float32)
    images[34, 0, 3, 3] = np.nan
    np.savez(tmp_path / "data.npz", image=images)
    refuse(CNN, "image", data=tmp_path / "data.npz")


def test_missing_data(cli: Cli, refuse: Refuse, tmp_path: Path) -> None:
    refuse(CNN, "nowhere.npz", "no such file", data=tmp_path / "nowhere.npz")
    result = cli("convert", CNN, "-o", tmp_path / "snn.onnx", "--steps", 4)
    one_line_error(result, "calibration data is needed", "give --data")


def test_data_that_is_no_npz(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 and then nothing")
    refuse(CNN, "data.npz", data=tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("steps", "word"),
    [(("--steps", 0), "T = 0"), (("--steps", -1), "T = -1"), ((), "no number of time-steps")],
)
def test_steps(steps: tuple[object, ...], word: str, refuse: Refuse) -> None:
    refuse(CNN, word, steps=steps)


def test_output_that_cannot_be_written(refuse: Refuse, tmp_path: Path) -> None:
    refuse(CNN, str(tmp_path), "cannot be written", output=tmp_path)
    refuse(CNN, "cannot be written", output=tmp_path / "no" / "snn.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_without_permission(refuse: Refuse, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refuse(CNN, "cannot be written", output=folder / "snn.onnx")


def test_unknown_name_to_keep(refuse: Refuse) -> None:
    refuse(CNN, "no activation 'relu_99'", options=("--keep", "relu_99"))


def test_snn_given_as_ann(refuse: Refuse, snn: Path) -> None:
    refuse(snn, "is an SNN already")


def test_mean_and_std(refuse: Refuse, tmp_path: Path) -> None:
    refuse(CNN, "--mean and --std belong together", options=("--mean", "0.5"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--std", "0.5"), "--mean and --std belong together"),
        (("--mean", "a,b", "--std", "1,1"), "--mean 'a,b' is no list of numbers"),
        (("--mean", "0.5", "--std", "0"), "std"),
        (("--mean", "nan", "--std", "1"), "mean"),
    ],
)
def test_mean_and_std_that_make_no_sense(
    options: tuple[str, ...], words: str, refuse: Refuse
) -> None:
    refuse(CNN, words, options=options)


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', '{"image_mean": "red"}', '{"rescale_factor": []}', None]
)
def test_bad_preprocess_file(text: str | None, refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    if text is not None:
        path.write_text(text)
    refuse(CNN, "own.json", options=("--preprocess", path))


def test_bad_sidecar(refuse: Refuse, tmp_path: Path) -> None:
    ann = tmp_path / "ann.onnx"
    ann.write_bytes(CNN.read_bytes())
    (tmp_path / "ann.preprocess.json").write_text("{")
    refuse(ann, "ann.preprocess.json")


def test_preprocess_and_mean_exclude_each_other(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{}")
    options = ("--preprocess", tmp_path / "own.json", "--mean", "0", "--std", "1")
    refuse(CNN, "exclude each other", options=options)


def test_cuda_where_there_is_none(
    cli: Cli, refuse: Refuse, snn: Path, digits_npz: tuple[Path, Path]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows CUDA")
    refuse(CNN, "cuda", options=("--provider", "cuda"))
    for command in (
        ("evaluate", snn, "--data", digits_npz[1]),
        ("verify", CNN, snn, "--data", digits_npz[1]),
    ):
        one_line_error(cli(*command, "--provider", "cuda"))


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("option", ["--samples", "--threads", "--calib-batch", "--passes"])
def test_numbers_below_one(option: str, number: int, refuse: Refuse) -> None:
    refuse(CNN, option.strip("-"), options=(option, number))


def test_names_with_terminal_escapes(
    cli: Cli, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    ann = write_model(BLOCKED, {"w": np.eye(3, dtype=np.float32)})
    proto = onnx.load(ann)
    evil = "\x1b[31m\x1b]0;own\x07\n[bold]x[/bold]"
    for node in proto.graph.node:
        node.name = node.name and evil
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = name + evil if name not in ("x", "y", "w") else name
    onnx.save(proto, ann)
    result = cli("convert", ann, "-o", tmp_path / "snn.onnx", "--steps", 4)
    assert result.exit_code == 2
    for command in (("inspect", ann), ("convert", ann, "-o", tmp_path / "snn.onnx")):
        shown = cli(*command, *(() if command[0] == "inspect" else ("--steps", 4)))
        assert "\x1b" not in shown.output
        assert "\x07" not in shown.output
        assert "[bold]" in shown.output  # a name is shown as it is, not as markup
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ann.onnx: Sigmoid node '")
    keep = cli("convert", ann, "-o", tmp_path / "snn.onnx", "--steps", 4, "--keep", "z" + evil)
    assert one_line_error(keep)


def test_verify_against_something_else(cli: Cli, snn: Path, digits_npz: tuple[Path, Path]) -> None:
    result = cli("verify", QCFS, snn, "--data", digits_npz[1])
    one_line_error(result, "writes no activation")
    result = cli("verify", CNN, CNN, "--data", digits_npz[1])
    one_line_error(result, "has no spiking neurons")


def test_evaluate_against_a_model_with_other_inputs(
    cli: Cli, snn: Path, digits_npz: tuple[Path, Path], write_model: Callable[..., Path]
) -> None:
    other = write_model("g (float[N,3] z) => (float[N,3] y) { y = Relu(z) }")
    result = cli("evaluate", snn, "--data", digits_npz[1], "--reference", other)
    one_line_error(result)


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
