"""Opening data: every form, and everything that can be wrong with it."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphpass_runtime.data import Dataset, open_data
from graphpass_runtime.errors import DataError, OptionError
from graphpass_runtime.feeds import TensorSpec
from graphpass_runtime.preprocess import Preprocess

X = TensorSpec("x", np.dtype(np.float32), ("N", 3))
IMAGE = TensorSpec("input", np.dtype(np.float32), ("N", 3, 8, 8))
PLAIN = Preprocess(rescale=1)


def _images(count: int, *, size: int = 8, channels: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def _save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def _all(data: Dataset, size: int = 3) -> tuple[dict[str, Any], Any]:
    batches = list(data.batches(size))
    feeds = {
        name: np.concatenate([batch.feeds[name] for batch in batches]) for name in batches[0].feeds
    }
    labels = [batch.labels for batch in batches]
    return feeds, None if labels[0] is None else np.concatenate(labels)


# Arrays that are fed as they are


def test_arrays_are_fed_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    path = _save(tmp_path / "d.npz", x=x, labels=np.arange(7), other=np.ones(2))
    # The preprocessing is for images: it has no part in this, its label offset neither.
    data = open_data(path, [X], Preprocess(label_offset=1))
    assert (data.samples, data.labelled) == (7, True)
    assert [len(batch.feeds["x"]) for batch in data.batches(3)] == [3, 3, 1]
    for _ in range(2):
        feeds, labels = _all(data)
        np.testing.assert_array_equal(feeds["x"], x)
        np.testing.assert_array_equal(labels, np.arange(7))


def test_arrays_without_labels_in_foreign_byte_order(tmp_path: Path) -> None:
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    data = open_data(_save(tmp_path / "d.npz", x=x), [X])
    assert not data.labelled
    (batch,) = data.batches(9)
    assert batch.labels is None
    assert batch.feeds["x"].dtype == np.float32
    np.testing.assert_array_equal(batch.feeds["x"], x)


def test_inputs_without_a_batch_axis_go_with_every_batch(tmp_path: Path) -> None:
    rate = TensorSpec("rate", np.dtype(np.int64), ())
    path = _save(tmp_path / "d.npz", x=np.ones((4, 3), np.float32), rate=np.array(16000))
    data = open_data(path, [X, rate], samples=3)
    assert data.samples == 3
    assert [batch.feeds["rate"].item() for batch in data.batches(2)] == [16000, 16000]


def test_literal_batch_takes_any_number_of_samples(tmp_path: Path) -> None:
    one = TensorSpec("x", np.dtype(np.float32), (1, 3))
    assert open_data(_save(tmp_path / "d.npz", x=np.ones((4, 3), np.float32)), [one]).samples == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 3))}, r"d.npz: input 'x' is float32\[N,3\], got float64\[2,3\]"),
        ({"x": np.ones((2, 4), np.float32)}, r"got float32\[2,4\]"),
        ({"x": np.ones((2, 3, 1), np.float32)}, r"got float32\[2,3,1\]"),
        ({"x": np.ones((0, 3), np.float32)}, "holds no samples"),
        ({"x": np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)}, "NaN or infinity in sample 1"),
        ({"x": np.full((1, 3), np.inf, np.float32)}, "NaN or infinity"),
        ({"x": np.ones((2, 3), np.float32), "labels": np.arange(3)}, "3 labels for 2 samples"),
        ({"x": np.ones((2, 3), np.float32), "labels": np.ones(2)}, "'labels' must be whole"),
        ({"x": np.ones((2, 3), np.float32), "labels": np.eye(2, dtype=int)}, "'labels' must be"),
        ({"x": np.array([{}, {}])}, "'x' holds pickled objects"),
        ({"y": np.ones(2)}, "neither 'images' nor the model's inputs"),
        ({}, "its keys are none"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_data(_save(tmp_path / "d.npz", **arrays), [X])


def test_arrays_of_differing_length_are_refused(tmp_path: Path) -> None:
    z = TensorSpec("z", np.dtype(np.float32), ("N", 3))
    ones = np.ones((3, 3), np.float32)
    with pytest.raises(DataError, match="'x' 3, 'z' 2"):
        open_data(_save(tmp_path / "d.npz", x=ones, z=ones[:2]), [X, z])


# Damaged and hostile files


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(tmp_path / "nowhere.npz", [X])
    whole = _save(tmp_path / "d.npz", x=np.ones((99, 3), np.float32)).read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            open_data(tmp_path / "d.npz", [X])


def test_damaged_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.ones((9, 3), np.float32), labels=np.arange(9))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        try:
            list(open_data(path, [X]).batches(9))
        except DataError:
            refused += 1
    assert refused > 100


def _member(path: Path, header: str, data: bytes = b"") -> None:
    text = header.encode().ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy)


@pytest.mark.parametrize("shape", ["(1000000000000, 3)", "(0, 9000000000000000000)", "(-1, 3)"])
def test_header_that_promises_too_much_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "d.npz"
    _member(path, f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")
    with pytest.raises(DataError, match="cut short"):
        open_data(path, [X])


def test_archive_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "d.npz", x=np.ones((2, 3), np.float32))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the central directory, sizes at 20 and 24
    central = bytes(content[entry : content.index(b"PK\x05\x06")])
    huge = central[:24] + struct.pack("<I", 0xFFFFFFF0) + central[28:]
    # Five times 4 GiB.
    directory = b"".join(huge.replace(b"x.npy", b"%d.npy" % index) for index in range(5))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 5, 5, len(directory), entry, 0)
    path.write_bytes(bytes(content[:entry]) + directory + end)
    with pytest.raises(DataError, match="holds 19 GiB uncompressed, more than 16"):
        open_data(path, [X])


# Images


def test_images_are_preprocessed(tmp_path: Path) -> None:
    images = _images(7)
    path = _save(tmp_path / "d.npz", images=images, labels=np.arange(7, dtype=np.int32))
    data = open_data(str(path), [IMAGE], Preprocess(rescale=1, label_offset=1))
    feeds, labels = _all(data)
    assert feeds["input"].dtype == np.float32
    np.testing.assert_array_equal(feeds["input"], images.transpose(0, 3, 1, 2))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, np.arange(7) + 1)


def test_grey_images(tmp_path: Path) -> None:
    grey = TensorSpec("input", np.dtype(np.float32), ("N", 1, 28, 28))
    images = _images(4, size=28, channels=1)
    data = open_data(_save(tmp_path / "d.npz", images=images), [grey], PLAIN)
    assert not data.labelled
    np.testing.assert_array_equal(_all(data)[0]["input"], images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int32])
def test_images_take_the_dtype_of_the_input(tmp_path: Path, dtype: Any) -> None:
    spec = TensorSpec("input", np.dtype(dtype), IMAGE.shape)
    images = _images(2)
    feeds, _ = _all(open_data(_save(tmp_path / "d.npz", images=images), [spec], PLAIN))
    assert feeds["input"].dtype == dtype
    np.testing.assert_array_equal(feeds["input"], images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("dtype", "rescale"), [(np.uint8, 1 / 255), (np.int8, 1.0), (np.float16, 1e5), (np.bool_, 1.0)]
)
def test_dtype_that_cannot_hold_the_values_is_refused(
    tmp_path: Path, dtype: Any, rescale: float
) -> None:
    spec = TensorSpec("input", np.dtype(dtype), IMAGE.shape)
    path = _save(tmp_path / "d.npz", images=_images(2))
    with pytest.raises(DataError, match="cannot be given as"):
        list(open_data(path, [spec], Preprocess(rescale=rescale)).batches(2))


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "d.npz", images=_images(2, size=9))
    with pytest.raises(DataError, match=r"is float32\[N,3,8,8\], images are float32\[2,3,9,9\]"):
        list(open_data(path, [IMAGE], PLAIN).batches(2))
    with pytest.raises(DataError, match="is not known; give a file MODEL"):
        open_data(path, [IMAGE])
    with pytest.raises(DataError, match=r"the model has 2; give an \.npz with the keys input, x"):
        open_data(path, [IMAGE, X], PLAIN)
    with pytest.raises(DataError, match="'images' must be uint8"):
        open_data(_save(tmp_path / "f.npz", images=np.ones((2, 8, 8, 3))), [IMAGE], PLAIN)
    labelled = _save(tmp_path / "l.npz", images=_images(2), labels=np.arange(5))
    with pytest.raises(DataError, match="5 labels for 2 samples"):
        open_data(labelled, [IMAGE], PLAIN)


def test_input_called_images_can_be_fed_either_way(tmp_path: Path) -> None:
    spec = TensorSpec("images", np.dtype(np.float32), IMAGE.shape)
    images = _images(2)
    ready = images.transpose(0, 3, 1, 2).astype(np.float32)
    for array in (images, ready):
        data = open_data(_save(tmp_path / "d.npz", images=array), [spec], PLAIN)
        np.testing.assert_array_equal(_all(data)[0]["images"], ready)


# Folders


def _folder(root: Path, **classes: int) -> Path:
    """PNG files of one grey level each, counted up over the whole folder."""
    level = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8 + level, 9), (level,) * 3).save(root / name / f"{index}.PNG")
            level += 1
    return root


def test_folders_named_by_numbers_are_those_labels(tmp_path: Path) -> None:
    folder = _folder(tmp_path, **{"10": 2, "9": 1, "007": 1, ".git": 1})
    (folder / "10" / "notes.txt").write_text("no image")
    (folder / "list.csv").write_text("no folder")
    data = open_data(folder, [IMAGE], Preprocess(size=(8, 8), rescale=1, label_offset=1))
    assert (data.samples, data.labelled) == (4, True)
    for _ in range(2):
        feeds, labels = _all(data)
        np.testing.assert_array_equal(labels, [8, 10, 11, 11])
        np.testing.assert_array_equal(feeds["input"][:, 0, 0, 0], [3, 2, 0, 1])


def test_folders_named_by_words_are_numbered_in_order(tmp_path: Path) -> None:
    folder = _folder(tmp_path, dog=1, cat=2, Emu=1)
    _, labels = _all(open_data(folder, [IMAGE], Preprocess(size=(8, 8))))
    np.testing.assert_array_equal(labels, [0, 1, 1, 2])


def test_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a=3) / "a"
    data = open_data(folder, [IMAGE], Preprocess(size=(8, 8)))
    assert (data.samples, data.labelled) == (3, False)


def test_images_become_grey_for_a_model_with_one_channel(tmp_path: Path) -> None:
    grey = TensorSpec("input", np.dtype(np.float32), ("N", 1, 8, 8))
    data = open_data(_folder(tmp_path, a=2), [grey], Preprocess(size=(8, 8)))
    assert _all(data)[0]["input"].shape == (2, 1, 8, 8)


def test_folders_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    preprocess = Preprocess(size=(8, 8))
    with pytest.raises(DataError, match=r"numbered .'1'. and named .'cat'."):
        open_data(_folder(tmp_path / "mixed", **{"1": 1, "cat": 1}), [IMAGE], preprocess)
    with pytest.raises(DataError, match="holds no samples"):
        open_data(_folder(tmp_path / "empty", cat=0), [IMAGE], preprocess)
    with pytest.raises(DataError, match="holds no samples"):
        open_data(_folder(tmp_path / "empty", dog=0), [IMAGE], preprocess)
    damaged = _folder(tmp_path / "damaged", cat=1)
    whole = (damaged / "cat" / "0.PNG").read_bytes()
    for content in (b"", b"hello", whole[:45]):
        (damaged / "cat" / "0.PNG").write_bytes(content)
        with pytest.raises(DataError, match=r"cat.0\.PNG: cannot be read as an image"):
            list(open_data(damaged, [IMAGE], preprocess).batches(1))


def test_image_of_absurd_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    stream = io.BytesIO()
    Image.new("1", (2, 2)).save(stream, "png")
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">II", 12_000, 12_000)  # IHDR; a short file all the same
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "a" / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="12000 x 12000 pixels is too large"):
        list(open_data(tmp_path, [IMAGE], Preprocess(size=(8, 8))).batches(1))


# Samples


@pytest.mark.parametrize("samples", [1, 2, 3, 9, 10, 11, None])
def test_samples_are_spread_evenly_and_in_order(tmp_path: Path, samples: int | None) -> None:
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    data = open_data(_save(tmp_path / "d.npz", x=x, labels=np.arange(10)), [X], samples=samples)
    feeds, labels = _all(data)
    assert data.samples == len(labels) == min(samples or 10, 10)
    np.testing.assert_array_equal(feeds["x"], x[labels])
    gaps = np.diff(labels)
    assert len(labels) < 2 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_senseless_numbers_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "d.npz", x=np.ones((2, 3), np.float32))
    with pytest.raises(OptionError, match="samples is 0"):
        open_data(path, [X], samples=0)
    with pytest.raises(OptionError, match="batch size is 0"):
        open_data(path, [X]).batches(0)


def test_hold_out_and_thinned(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(22, dtype=np.float32), labels=np.arange(22))
    data = open_data(tmp_path / "x.npz", [TensorSpec("x", np.dtype(np.float32), ("N",))])

    def values(part: Dataset, size: int = 5) -> list[float]:
        return [float(x) for batch in part.batches(size) for x in batch.feeds["x"]]

    rest, held = data.hold_out(4)
    assert values(held) == [3, 7, 11, 15, 19]
    assert sorted(values(rest) + values(held)) == values(data)
    assert (rest.samples, held.samples) == (17, 5)
    assert [len(batch.feeds["x"]) for batch in rest.batches(5)] == [5, 5, 5, 2]
    (batch,) = held.batches(9)
    np.testing.assert_array_equal(batch.labels, [3, 7, 11, 15, 19])
    assert values(data.thinned(2)) == [0, 11]
    assert values(rest.thinned(100)) == values(rest)
    assert open_data(held, []) is held
    with pytest.raises(DataError, match="too few"):
        held.hold_out(6)


def test_chosen_batches_are_those_of_all_and_no_others_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(22, dtype=np.float32), labels=np.arange(22))
    data = open_data(tmp_path / "x.npz", [TensorSpec("x", np.dtype(np.float32), ("N",))])
    dicts = [dict(batch.feeds) for batch in data.batches(5)]
    for given in (data, open_data(dicts, [TensorSpec("x", np.dtype(np.float32), ("N",))])):
        found = dict(given.chosen_batches(5, {4, 1, 9}))
        assert list(found) == [1, 4]
        assert found[1].feeds["x"].tolist() == [5, 6, 7, 8, 9]
        assert found[4].feeds["x"].tolist() == [20, 21]
        assert list(given.chosen_batches(5, ())) == []
        with pytest.raises(OptionError, match="batch size is 0"):
            given.chosen_batches(0, {1})
    read: list[float] = []
    choose = data._choose
    assert choose is not None

    def watched(rows: np.ndarray) -> Dataset:
        read.extend(rows.tolist())
        return choose(rows)

    dict(replace(data, _choose=watched).chosen_batches(5, {1}))
    assert read == [5, 6, 7, 8, 9]
