"""Files on disk: whole or not at all, large weights beside the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphpass import Session, convert, files, large_weights, verify
from graphpass.files import atomic_file
from graphpass.model import load, save, to_bytes
from graphpass_models.digits import digits_model_path
from graphpass_runtime.errors import ModelError, OutputError

Npz = tuple[Path, Path]

CNN = digits_model_path()
NET = "g (float[N,40] x) => (float[N,40] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"


@pytest.fixture
def ann(write_model: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(40, 40)).astype(np.float32) for name in "wv"}
    return write_model(NET, weights)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else takes gigabytes happens from a few kilobytes on."""
    monkeypatch.setattr(large_weights, "LARGE", 2048)
    monkeypatch.setattr(large_weights, "INSIDE", 4096)
    monkeypatch.setattr(files, "MOST_IN_ONE_FILE", 8192)


class TestAtomicFile:
    @pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1)])
    @pytest.mark.parametrize("old", [None, b"old"])
    def test_what_fails_inside_leaves_no_file(
        self, tmp_path: Path, error: BaseException, old: bytes | None
    ) -> None:
        path = tmp_path / "out.onnx"
        if old is not None:
            path.write_bytes(old)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(type(error)), atomic_file(path) as file:  # noqa: PT012
            file.write(b"half")
            raise error
        assert sorted(tmp_path.iterdir()) == before
        assert old is None or path.read_bytes() == old

    def test_full_disk_leaves_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="No space left"), atomic_file(tmp_path / "o"):
            raise OSError(28, "No space left on device")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_limits")
class TestLargeWeights:
    def test_go_to_a_file_beside_the_model(
        self, ann: Path, tmp_path: Path, bare_run: Callable[..., dict[str, Any]]
    ) -> None:
        out = tmp_path / "out.onnx"
        save(load(ann), out)
        (data,) = tmp_path.glob("out.onnx.*.data")
        assert out.stat().st_size < 2000
        places = [
            int(entry.value)
            for weight in onnx.load(out, load_external_data=False).graph.initializer
            for entry in weight.external_data
            if entry.key == "offset"
        ]
        assert places == [0, 65536]
        assert data.stat().st_size == 65536 + 4 * 40 * 40
        onnx.checker.check_model(str(out), full_check=True)
        x = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
        np.testing.assert_array_equal(bare_run(out, {"x": x})["y"], bare_run(ann, {"x": x})["y"])

    def test_are_mapped_and_survive(self, ann: Path, tmp_path: Path) -> None:
        save(load(ann), tmp_path / "out.onnx")
        model = load(tmp_path / "out.onnx")
        weights = {name: t for name, t in model.graph.tensors().items() if name in ("w", "v")}
        assert all(isinstance(tensor.values, np.memmap) for tensor in weights.values())
        for tensor in onnx.load(ann).graph.initializer:
            expected = onnx.numpy_helper.to_array(tensor)
            np.testing.assert_array_equal(weights[tensor.name].values, expected)

    def test_same_model_same_bytes(self, ann: Path, tmp_path: Path) -> None:
        contents = []
        for folder in (tmp_path / "a", tmp_path / "b"):
            folder.mkdir()
            save(load(ann), folder / "out.onnx")
            contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert len(contents[0]) == 2
        assert contents[0] == contents[1]

    def test_only_the_new_data_stays(self, ann: Path, tmp_path: Path) -> None:
        out, other = tmp_path / "out.onnx", tmp_path / "other.onnx"
        model = load(ann)
        save(model, other)
        save(model, out)
        (first,) = tmp_path.glob("out.onnx.*.data")
        tensor = model.graph.tensors()["w"]
        tensor.values = tensor.values + 1
        save(model, out)
        (second,) = tmp_path.glob("out.onnx.*.data")
        assert second.name != first.name
        assert len(list(tmp_path.glob("other.onnx.*.data"))) == 1
        np.testing.assert_array_equal(load(out).graph.tensors()["w"].values, tensor.values)

    def test_failure_leaves_the_old_pair(
        self, ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out.onnx"
        model = load(ann)
        save(model, out)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        tensor = model.graph.tensors()["w"]
        tensor.values = tensor.values + 1
        real = files.atomic_file

        def full(path: Path) -> Any:
            if path == out:
                raise OutputError("no room", where=str(path))
            return real(path)

        monkeypatch.setattr(files, "atomic_file", full)
        with pytest.raises(OutputError, match="no room"):
            save(model, out)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_data_cut_short_is_refused(self, ann: Path, tmp_path: Path) -> None:
        save(load(ann), tmp_path / "out.onnx")
        (data,) = tmp_path.glob("out.onnx.*.data")
        data.write_bytes(data.read_bytes()[:-100])
        with pytest.raises(ModelError, match=r"exceeds|holds"):
            load(tmp_path / "out.onnx")

    def test_data_outside_the_folder_is_refused(self, ann: Path, tmp_path: Path) -> None:
        save(load(ann), tmp_path / "out.onnx")
        (data,) = tmp_path.glob("out.onnx.*.data")
        (tmp_path / "inner").mkdir()
        proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = f"../{data.name}"
        path = tmp_path / "inner" / "out.onnx"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match="external data cannot be read"):
            load(path)

    def test_are_not_held_in_one_piece(self, ann: Path) -> None:
        with pytest.raises(ModelError, match="more weights than"):
            to_bytes(load(ann))


def test_weights_that_bodies_read_too(write_model: Callable[..., Path]) -> None:
    text = (
        "g (float[N,40] x, bool more) => (float[N,40] y) { a = MatMul (x, w) y = If (more) <"
        " then_branch = t () => (float[N,40] p) { p = MatMul (a, w) },"
        " else_branch = e () => (float[N,40] q) { q = MatMul (a, v) }> }"
    )
    rng = np.random.default_rng(0)
    path = write_model(text, {name: rng.normal(size=(40, 40)).astype(np.float32) for name in "wv"})
    model = load(path)
    bodies = model.graph.subgraphs(recursive=True)
    inside = [t for body in bodies for t in body.tensors().values() if t.name in "wv"]
    assert [tensor.values.shape for tensor in inside] == [(40, 40)] * 2
    content = to_bytes(model)
    for more in (False, True):
        feeds = {"x": np.ones((3, 40), np.float32), "more": np.array(more)}
        wanted, found = Session(path).run(feeds)["y"], Session(content).run(feeds)["y"]
        np.testing.assert_array_equal(found, wanted)


def test_large_and_small_convert_alike(
    digits_npz: Npz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights as inputs of sessions and in a file of their own, from a kilobyte on."""
    calib, test = digits_npz
    options = {"steps": 8, "data": calib, "form": "counts", "diagnose": True}
    small = convert(CNN, tmp_path / "small.onnx", **options)
    monkeypatch.setattr(large_weights, "LARGE", 1024)
    monkeypatch.setattr(large_weights, "INSIDE", 0)
    monkeypatch.setattr(files, "MOST_IN_ONE_FILE", 0)
    large = convert(CNN, tmp_path / "large.onnx", stages=tmp_path / "stages", **options)
    assert list(tmp_path.glob("large.onnx.*.data"))
    assert len(list((tmp_path / "stages").glob("*.onnx.*.data"))) == 5
    assert large.diagnosis is not None
    assert small.diagnosis is not None
    shares = [[layer.share for layer in each.diagnosis.layers] for each in (small, large)]
    np.testing.assert_allclose(*shares, atol=1e-3)
    # What is an input is summed in another order: of equals, some round the other way.
    assert verify(tmp_path / "small.onnx", tmp_path / "large.onnx", data=test).equal
    result = verify(tmp_path / "stages" / "3-calibrated.onnx", tmp_path / "large.onnx", data=test)
    assert result.equal
