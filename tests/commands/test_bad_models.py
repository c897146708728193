"""Bad models: each is one line, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result

from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
Refuse = Callable[..., str]
Check = Callable[..., str]
CNN = digits_model_path("digits_cnn")


def test_not_an_onnx_file(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "ann.onnx"
    path.write_bytes(b"this is a text file, and no model")
    refuse(path, "ann.onnx: ", "not an ONNX file")


def test_empty_file_and_missing_file(one_line_error: Check, cli: Cli, tmp_path: Path) -> None:
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
    words = "has no activation to convert (only Sigmoid, Tanh, as gates or not between layers)"
    refuse(write_model(text), "ann.onnx: ", words)


BLOCKED = """g (float[N,3] x) => (float[N,3] y) {
    r1 = Relu(x)
    a = MatMul(r1, w)
    r2 = Relu(a)
    [the_softmax] b = Softmax(r2)
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
        assert error.startswith("error: ann.onnx: Softmax node 'the_softmax' is not linear")
        text = "\n".join(table)
        for name, verdict in (("r1", "kept"), ("r2", "converted"), ("r3", "converted")):
            assert any(name in line and verdict in line for line in table)
        assert "Softmax" in text
        assert "refused" in text
    assert [p.name for p in tmp_path.iterdir()] == ["ann.onnx"]


def test_names_with_terminal_escapes(
    one_line_error: Check, cli: Cli, write_model: Callable[..., Path], tmp_path: Path
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
    assert last.startswith("error: ann.onnx: Softmax node '")
    keep = cli("convert", ann, "-o", tmp_path / "snn.onnx", "--steps", 4, "--keep", "z" + evil)
    assert one_line_error(keep)


def test_snn_given_as_ann(refuse: Refuse, snn: Path) -> None:
    refuse(snn, "is an SNN already")


def test_functions_without_end(one_line_error: Check, cli: Cli, tmp_path: Path) -> None:
    """Each function calls the one before twice: a kilobyte that stands for 2^30 nodes."""
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    functions = []
    for level in range(31):
        op, domain = (f"f{level - 1}", "own") if level else ("Relu", "")
        ends = (("i", "t"), ("t", "o"))
        nodes = [onnx.helper.make_node(op, [a], [b], domain=domain) for a, b in ends]
        functions.append(onnx.helper.make_function("own", f"f{level}", ["i"], ["o"], nodes, opsets))
    values = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy"]
    node = onnx.helper.make_node("f30", ["x"], ["y"], domain="own")
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    path = tmp_path / "ann.onnx"
    onnx.save(onnx.helper.make_model(graph, functions=functions, opset_imports=opsets), path)
    for command in (
        ("convert", path, "-o", tmp_path / "snn.onnx", "--steps", 4),
        ("inspect", path),
        ("evaluate", path, "--data", tmp_path / "none.npz"),
        ("bench", path),
    ):
        one_line_error(cli(*command), "ann.onnx", "functions stand for")
    assert [p.name for p in tmp_path.iterdir()] == ["ann.onnx"]


def test_operator_whose_name_is_no_text(
    one_line_error: Check, cli: Cli, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "bytes.onnx"
    content = CNN.read_bytes()
    path.write_bytes(content.replace(b"MaxPool", b"MaxPo\xff\xfe"))
    assert path.read_bytes() != content
    for command in (("evaluate", path, "--data", digits_npz[1]), ("inspect", path)):
        one_line_error(cli(*command), "bytes.onnx", "")
