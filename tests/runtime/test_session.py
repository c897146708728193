"""Running models: checks of the feeds, pieces of a batch, extra outputs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphpass_runtime.errors import (
    DataError,
    ModelError,
    OptionError,
)
from graphpass_runtime.metadata import FileRecord, Stage
from graphpass_runtime.session import Session, TensorSpec

Build = Callable[..., bytes]

SCALE = "g (float[N,3] x) => (float[N,3] y) <float two = {2}> { z = Mul(x, two) y = Relu(z) }"


def _record(peak: int) -> FileRecord:
    return FileRecord(Stage.SPIKING, steps=4, peak_elements=peak)


def _sizes(session: Session) -> list[int]:
    """Log the batch sizes that reach ONNX Runtime."""
    sizes: list[int] = []
    inner = session._ort

    def run(names: list[str], feeds: dict[str, Any], options: Any) -> Any:
        sizes.append(len(feeds["x"]))
        return inner.run(names, feeds, options)

    session._ort = SimpleNamespace(run=run)
    return sizes


def test_describes_itself(build: Build) -> None:
    session = Session(build(SCALE, _record(7)), provider="cpu", threads=1)
    assert session.inputs == (TensorSpec("x", np.dtype(np.float32), ("N", 3)),)
    assert str(session.inputs[0]) == "float32[N,3]"
    assert [output.name for output in session.outputs] == ["y"]
    assert session.provider == "cpu"
    assert session.batch is None
    assert session.record is not None
    assert session.record.peak_elements == 7
    assert Session(build(SCALE)).record is None


def test_runs_pieces_that_fit_the_memory(build: Build) -> None:
    # 2 samples x 4 live tensors x 10 elements x 4 bytes.
    session = Session(build(SCALE, _record(10)), memory_limit=320)
    sizes = _sizes(session)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(2 * x, 0))
    assert sizes == [2, 2, 2, 1]


def test_runs_at_least_one_sample_at_a_time(build: Build) -> None:
    session = Session(build(SCALE, _record(10**15)), memory_limit=1)
    sizes = _sizes(session)
    assert session.run({"x": np.ones((3, 3), np.float32)})["y"].shape == (3, 3)
    assert sizes == [1, 1, 1]


def test_runs_whole_without_a_record(build: Build) -> None:
    session = Session(build(SCALE), memory_limit=1)
    sizes = _sizes(session)
    session.run({"x": np.ones((50, 3), np.float32)})
    assert sizes == [50]


@pytest.mark.parametrize("rows", [1, 4, 5, 8])
def test_pads_a_literal_batch_and_drops_the_padding(build: Build, rows: int) -> None:
    session = Session(build(SCALE.replace("N", "4")))
    sizes = _sizes(session)
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(2 * x, 0))
    assert session.batch == 4
    assert set(sizes) == {4}


@pytest.mark.parametrize("size", [1 << 50, 1 << 62])
def test_literal_batch_that_memory_does_not_hold(build: Build, size: int) -> None:
    session = Session(build(SCALE.replace("N", str(size))))
    with pytest.raises(ModelError, match=f"a batch of {size:,} samples written into it"):
        session.run({"x": np.ones((1, 3), np.float32)})


def test_inputs_without_a_batch_axis_go_whole_to_every_piece(build: Build) -> None:
    text = (
        "g (float[N,2] x, float[3,2] w, float s) => (float[N,2] y) "
        "{ t = ReduceSum(w) u = Add(x, t) y = Mul(u, s) }"
    )
    session = Session(build(text, _record(1)), memory_limit=16)
    feeds = {
        "x": np.arange(8, dtype=np.float32).reshape(4, 2),
        "w": np.ones((3, 2), np.float32),
        "s": np.array(2, np.float32),
    }
    np.testing.assert_array_equal(session.run(feeds)["y"], (feeds["x"] + 6) * 2)


def test_output_without_a_batch_axis_cannot_be_joined(build: Build) -> None:
    text = "g (float[N,3] x) => (float y) { y = ReduceMean <keepdims = 0> (x) }"
    session = Session(build(text, _record(10)), memory_limit=320)
    x = np.ones((3, 3), np.float32)
    assert session.run({"x": x[:2]})["y"] == 1
    with pytest.raises(DataError, match=r"'y'.*no batch axis.*at most 2 samples"):
        session.run({"x": x})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "no data for input 'x'"),
        ({"x": np.ones((1, 3), np.float32), "q": np.ones(1)}, "no input 'q'; the inputs are x"),
        ({"x": np.ones((2, 3))}, r"input 'x' is float32\[N,3\], got float64\[2,3\]"),
        ({"x": np.ones((2, 4), np.float32)}, r"input 'x' is float32\[N,3\], got float32\[2,4\]"),
        ({"x": np.ones(3, np.float32)}, r"input 'x' is float32\[N,3\], got float32\[3\]"),
        ({"x": np.ones((0, 3), np.float32)}, "the batch is empty"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(
    build: Build, feeds: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Session(build(SCALE)).run(feeds)


def test_inputs_of_different_length_are_refused(build: Build) -> None:
    session = Session(build("g (float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }"))
    with pytest.raises(DataError, match="'a' 3, 'b' 2"):
        session.run({"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)})


def test_failure_while_running_is_one_line(build: Build) -> None:
    session = Session(build("g (float[N,3] x, float[N,M] z) => (float[N,3] y) { y = Add(x, z) }"))
    with pytest.raises(ModelError, match="fails while running it") as caught:
        session.run({"x": np.ones((2, 3), np.float32), "z": np.ones((2, 2), np.float32)})
    assert "onnxruntime_src" not in str(caught.value)
    assert len(str(caught.value)) < 350


def test_only_asked_outputs_come(build: Build) -> None:
    session = Session(build(SCALE), extra_outputs=["z", "y", "z"])
    x = np.array([[-1, 0, 1]], np.float32)
    results = session.run({"x": x})
    assert list(results) == ["y", "z"]
    np.testing.assert_array_equal(results["z"], 2 * x)
    assert list(session.run({"x": x}, ["z"])) == ["z"]
    with pytest.raises(OptionError, match="no output 'w'; the outputs are y, z"):
        session.run({"x": x}, ["w"])


def test_unknown_extra_output_is_refused(build: Build) -> None:
    with pytest.raises(ModelError, match=r"no such tensor.*nowhere"):
        Session(build(SCALE), extra_outputs=["nowhere"])
