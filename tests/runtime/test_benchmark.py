"""Measuring: what is reported and refused. No time is asserted: machines differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from graphpass import bench
from graphpass.cli import main
from graphpass_runtime import benchmark
from graphpass_runtime.errors import DataError, GraphpassError, ModelError, OptionError
from graphpass_runtime.peak_memory import peak_memory

Write = Callable[..., Path]
SIDE = 1024


@pytest.fixture
def models(write_model: Write) -> list[Path]:
    """One with a weight of 4 MiB, one with three of them."""
    weight = np.ones((SIDE, SIDE), np.float32)
    small = "g (float[N,1024] x) => (float[N,1024] y) { y = MatMul(x, a) }"
    large = """g (float[N,1024] x) => (float[N,1024] y) {
        b = MatMul(x, a)
        c = MatMul(b, a2)
        y = MatMul(c, a3)
    }"""
    return [
        write_model(small, {"a": weight}, name="small.onnx"),
        write_model(large, {"a": weight, "a2": 2 * weight, "a3": 3 * weight}, name="large.onnx"),
    ]


def test_one_row_for_each_batch_and_model(models: list[Path]) -> None:
    result = bench(models, batches=[1, 3], repeat=4, threads=1, provider="cpu")
    rows = result.measurements
    assert [(row.model, row.batch) for row in rows] == [
        (str(path), batch) for batch in (1, 3) for path in models
    ]
    assert [row.rounds for row in rows] == [4] * 4
    assert [row.ratio for row in rows[::2]] == [1.0, 1.0]
    assert all(row.median_ms > 0 and row.iqr_ms >= 0 and row.ratio > 0 for row in rows)
    assert (result.provider, result.threads) == ("cpu", 1)


def test_memory_grows_with_the_weights(models: list[Path]) -> None:
    small, large = (row.peak_mb for row in bench(models, repeat=1, threads=1).measurements)
    if small is None or large is None:
        pytest.skip("this platform does not tell the memory of a process")
    assert small > 3.5
    assert large > small + 7


def test_rounds_are_interleaved_and_slow_models_sit_out(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order = [0.0], []

    class Fake:
        def __init__(self, path: Path, **_options: object) -> None:
            self.name, self.where, self.provider, self.inputs = path.stem, "", "cpu", ()

        def run(self, _feeds: object) -> None:
            order.append(self.name)
            clock[0] += {"small": 1.0, "large": 4.0}[self.name]

    monkeypatch.setattr(benchmark, "Session", Fake)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    result = bench(models, repeat=5, memory=False, seconds=5)
    first, second = result.measurements
    assert order[:4] == ["small", "large"] * 2  # the first two warm up
    assert (first.rounds, second.rounds) == (5, 3)
    assert (first.median_ms, second.median_ms, second.ratio) == (1000, 4000, 4)


def test_data_instead_of_random_numbers(models: list[Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, SIDE), np.float32))
    result = bench(models, data=tmp_path / "x.npz", batches=[2], repeat=1, memory=False)
    assert len(result.measurements) == 2
    with pytest.raises(DataError, match="fewer than 4 samples"):
        bench(models, data=tmp_path / "x.npz", batches=[4], repeat=1, memory=False)


@pytest.mark.parametrize("change", [{"repeat": 0}, {"batches": [0]}, {"threads": 0}])
def test_numbers_below_one(models: list[Path], change: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        bench(models, **change)  # type: ignore[arg-type]


def test_no_models() -> None:
    with pytest.raises(OptionError, match="no models"):
        bench([])


def test_models_with_other_inputs(models: list[Path], write_model: Write) -> None:
    other = write_model("g (float[N,1024] z) => (float[N,1024] y) { y = Relu(z) }", name="o.onnx")
    with pytest.raises(DataError, match=r"'z' float32\[N,1024\].*same inputs"):
        bench([models[0], other])


@pytest.mark.parametrize(
    "text",
    [
        "g (int64[N,2] x) => (int64[N,2] y) { y = Abs(x) }",
        "g (float[N,size] x) => (float[N,size] y) { y = Abs(x) }",
    ],
)
def test_inputs_that_random_numbers_cannot_stand_for(text: str, write_model: Write) -> None:
    with pytest.raises(ModelError, match="--data"):
        bench([write_model(text)])


def test_a_process_that_fails(tmp_path: Path) -> None:
    with pytest.raises(GraphpassError, match="memory cannot be measured"):
        peak_memory(tmp_path / "none.onnx", {})


def test_command_prints_json_and_a_table(models: list[Path]) -> None:
    command = ["bench", *map(str, models), "--repeat", "2", "--batch", "1", "--batch", "2"]
    printed = CliRunner().invoke(main, [*command, "--json"])
    assert printed.exit_code == 0, printed.output
    values = json.loads(printed.stdout)
    assert [row["batch"] for row in values["measurements"]] == [1, 1, 2, 2]
    table = CliRunner().invoke(main, [*command, "--threads", "1"])
    assert table.exit_code == 0, table.output
    assert "large.onnx" in table.stdout
    missing = CliRunner().invoke(main, ["bench", "none.onnx"])
    assert missing.exit_code == 2


def test_a_process_that_takes_too_long(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphpass_runtime.peak_memory._TIMEOUT", 0.01)
    with pytest.raises(GraphpassError, match=r"memory cannot be measured within 0\.01 s"):
        peak_memory(models[0], {})
