"""Data that is not what it says: files of arrays and images, and descriptions of images."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mutations.base import FLOATS, Rng, pick

_VALUES = (
    None, True, 0, -1, 1, 3, 224, 1.5, 1e300, 2**63, "", "x", [], [0], [0.5, 0.5, 0.5], [-1, 0, 1],
    {}, {"height": 8, "width": 8}, {"height": -1, "width": 2**40}, {"shortest_edge": 0}, [[1]],
    float("nan"), float("inf"),
)  # fmt: skip
_KEYS = (
    "do_resize size do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean"
    " image_std resample do_flip_channel_order label_offset do_convert_rgb data_format unknown"
).split()


def hostile_data(good: Path, folder: Path, rng: Rng) -> Path:
    """Damage to an `.npz` file or to its arrays, or a folder of images, some of them none."""
    way = rng.integers(6)
    if way == 0:
        return _images(folder / "images", rng)
    path = folder / "data.npz"
    if way == 1:
        content = bytearray(good.read_bytes())
        for _ in range(rng.integers(1, 5)):
            where = int(rng.integers(len(content)))
            content[where : where + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        path.write_bytes(content)
        return path
    with np.load(good) as file:
        arrays = {name: file[name] for name in file.files}
    name = pick(list(arrays), rng)
    changed = _changed(arrays.pop(name), rng)
    arrays[name if way < 5 else pick(("images", "labels", "x", "../x"), rng)] = changed
    if rng.random() < 0.3:
        arrays["labels"] = np.asarray(pick(([0, 1, 2, 3], [-1] * 4, [2**62] * 4, [0.5] * 4), rng))
    np.savez(path, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    if rng.random() < 0.1:  # a header alone, of an array that would fill the memory
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 99999999999), }\n"
        with zipfile.ZipFile(path, "a") as archive:
            magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
            archive.writestr("huge.npy", magic + header)
    return path


def _changed(array: NDArray[Any], rng: Rng) -> NDArray[Any]:
    """Other values, types or sizes."""
    options = [
        array.astype(pick((np.float64, np.uint8, np.int64, bool, np.complex64, "S3"), rng)),
        np.full_like(array, pick(FLOATS, rng)),
        array[:0],
        array[:1],
        array[..., :1],
        array[None],
        array.reshape(-1),
        np.asarray(0.0, np.float32),
        np.asarray([{"a": 1}, None], object),
        (array * 255).astype(np.uint8).reshape(len(array), -1, 1, 1).repeat(3, axis=3),
    ]
    return np.asarray(options[int(rng.integers(len(options)))])


def _images(folder: Path, rng: Rng) -> Path:
    """Class folders with an image in each, one of which is damaged."""
    from PIL import Image

    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        shape = pick(((8, 8), (8, 8, 3), (1, 1), (32, 16, 4)), rng)
        image = Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8))
        image.save(folder / label / "0.png")
    content = (folder / "a" / "0.png").read_bytes()
    cut = int(len(content) * rng.random())
    other = pick((content, content[:cut], b"", rng.bytes(99), b"GIF89a"), rng)
    (folder / "a" / pick(("1.png", "1.jpg", "\x1b[31m.png", "1.txt"), rng)).write_bytes(other)
    if rng.random() < 0.2:
        shutil.rmtree(folder / pick(("a", "b"), rng))
    return folder


def hostile_preprocess(model: Path, rng: Rng) -> list[str]:
    """A description of images beside the model, or one that is named; options that name it."""
    if rng.random() < 0.5:
        return []
    keys = [pick(_KEYS, rng) for _ in range(rng.integers(0, 6))]
    text = json.dumps({key: pick(_VALUES, rng) for key in keys})
    if rng.random() < 0.2:
        text = pick((text[:-1], "[" * 100_000, "null", "\ud7ff", "9" * 5000), rng)
    if rng.random() < 0.5:
        model.with_name(f"{model.stem}.preprocess.json").write_text(text, encoding="utf-8")
        return []
    path = model.with_name("config.json")
    path.write_text(text, encoding="utf-8")
    return ["--preprocess", str(path)]
