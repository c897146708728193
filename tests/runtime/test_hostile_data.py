"""Whatever bytes or JSON come in: a value of the promised kind or a DataError, at once."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graphpass_runtime.data import open_data
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.feeds import TensorSpec
from graphpass_runtime.images import open_image
from graphpass_runtime.metadata import PREFIX, FileRecord, Stage
from graphpass_runtime.neuron import Neuron
from graphpass_runtime.npz import NpzFile
from graphpass_runtime.preprocess import Preprocess

# Seeded: the same examples every time. The limit of a single one is what "at once" means.
PROPERTY = settings(
    derandomize=True,
    max_examples=100,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([2**63, 10**400, -1, 0, 1, 3, 224, float("nan")]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["height", "width", "shortest_edge", "x"]), inner)
    ),
    max_leaves=6,
)


def one_line(error: Exception) -> None:
    assert str(error).isprintable()


def _edits(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes changed, cut out and put in at some places."""
    edit = st.tuples(st.integers(0, len(content)), st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for start, removed, added in edits:
            changed = changed[:start] + added + changed[start + removed :]
        return changed

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, image=np.arange(12, dtype=np.float32).reshape(3, 4), labels=np.arange(3))
    return file.getvalue()


def _image(kind: str) -> bytes:
    pillow = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    pillow.fromarray(pixels).save(file, kind)
    return file.getvalue()


@PROPERTY
@given(content=_edits(_npz()))
def test_npz(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    try:
        file = NpzFile(path)
        for key, info in file.arrays.items():
            array = file.read(key)
            assert (array.dtype, array.shape) == (info.dtype, info.shape)
    except DataError as error:
        one_line(error)


def _header(text: str) -> bytes:
    body = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


@pytest.mark.parametrize(
    "member",
    [
        _header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"cos\nsystem\n.",
        _header("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}"),
        _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        _header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904)}"),
        _header("{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999,)}"),
        _header("__import__('os').system('true')"),
        _header("(" * 5000),
        _header("{'descr': " + "[('a', " * 500 + "'<f4'" + ")]" * 500 + "}"),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
    ids="pickle giant negative empty_giant void code brackets nested version nothing".split(),
)
def test_npz_member(member: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", member)
    with pytest.raises(DataError):
        open_data(path, [TensorSpec("image", np.dtype(np.float32), ("N", 4))])


def test_zip_bomb(tmp_path: Path) -> None:
    """64 kilobytes that hold 64 megabytes: what the header does not ask for is not read."""
    path = tmp_path / "data.npz"
    header = _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4)}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header + bytes(1 << 26))
    array = NpzFile(path).read("image")
    assert array.shape == (1, 4)


def test_members_are_never_written(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    with zipfile.ZipFile(folder / "data.npz", "w") as archive:
        file = io.BytesIO()
        np.save(file, np.zeros((2, 4), np.float32))
        for name in ("../image.npy", "/image.npy", "image.npy"):
            archive.writestr(name, file.getvalue())
    assert NpzFile(folder / "data.npz").read("image").shape == (2, 4)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data.npz", "inner"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"])
def test_images(kind: str, tmp_path: Path) -> None:
    @PROPERTY
    @given(content=_edits(_image(kind)))
    def check(content: bytes) -> None:
        path = tmp_path / f"image.{kind}"
        path.write_bytes(content)
        try:
            assert open_image(path, grey=False).mode == "RGB"
        except DataError as error:
            one_line(error)

    check()


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_image_that_is_a_pipe(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    with pytest.raises(DataError, match="no file"):
        open_image(folder / "a.png", grey=False)


KEYS = """do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize
    image_mean image_std do_flip_channel_order data_format label_offset""".split()


@PROPERTY
@given(config=st.dictionaries(st.sampled_from(KEYS), JSON))
@example(config={"size": {"height": 10**400, "width": 1}})
def test_preprocess_config(config: dict[str, Any]) -> None:
    try:
        preprocess = Preprocess.from_config(config, where="own.json")
    except DataError as error:
        one_line(error)
        return
    assert Preprocess.from_config(preprocess.to_config()) == preprocess
    try:
        shape = preprocess(np.zeros((1, 6, 5, 3), np.uint8)).shape
    except DataError:
        return
    assert len(shape) == 4


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b"NaN"])
def test_sidecar(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ann.preprocess.json").write_bytes(content)
    with pytest.raises(DataError):
        Preprocess.sidecar(tmp_path / "ann.onnx")


FIELDS = """stage steps form activations neurons calibration preprocess batch_norms peak_elements
    states precision ranges""".split()


def _record() -> FileRecord:
    ones = np.ones(2, np.float32)
    neuron = Neuron("a", ones, ones, ones, levels=4, channel_axis=1)
    return FileRecord(Stage.CALIBRATED, steps=4, neurons=(neuron,), ranges={"a": (0.0, 1.0)})


@PROPERTY
@given(
    changes=st.dictionaries(
        st.sampled_from(FIELDS),
        st.text(max_size=20) | JSON.map(json.dumps),
        min_size=1,
    )
)
def test_metadata(changes: dict[str, str]) -> None:
    props = _record().to_props() | {PREFIX + key: value for key, value in changes.items()}
    try:
        record = FileRecord.from_props(props, where="snn.onnx")
    except ModelError as error:
        one_line(error)
        return
    assert record is not None
    again = FileRecord.from_props(record.to_props())  # what was read can be written
    assert again is not None
    assert again.to_props() == record.to_props()


@PROPERTY
@given(data=st.data())
def test_metadata_of_neurons(data: st.DataObject) -> None:
    values = _record().neurons[0].to_json()
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        values[key] = data.draw(JSON)
    props = _record().to_props() | {PREFIX + "neurons": json.dumps([values])}
    try:
        record = FileRecord.from_props(props)
    except ModelError as error:
        one_line(error)
        return
    assert record is not None
    assert all(np.isfinite(n.threshold).all() for n in record.neurons)
    record.to_props()
