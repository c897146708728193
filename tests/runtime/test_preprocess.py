"""Preprocessing against independent computations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphpass_runtime.errors import DataError
from graphpass_runtime.preprocess import Preprocess

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _images(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_mean_and_std_are_on_the_unit_scale_per_output_channel() -> None:
    images = _images(4, 5, 6, 3)
    wanted = (images / 255.0 - np.array(MEAN)) / np.array(STD)
    got = Preprocess.from_mean_std(MEAN, STD)(images)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-7)


def test_every_step_in_its_order() -> None:
    # Independent: Pillow on whole images, then plain float64 arithmetic.
    config = {
        "do_resize": True,
        "size": {"shortest_edge": 20},
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 15},
        "do_flip_channel_order": True,
        "do_rescale": True,
        "rescale_factor": 0.5,
        "do_normalize": True,
        "image_mean": [1, 2, 3],
        "image_std": [4, 5, 6],
    }
    preprocess = Preprocess.from_config(config)
    images = _images(2, 40, 31, 3)
    wanted = []
    for image in images:
        small = Image.fromarray(image).resize((20, 25), Image.Resampling.BILINEAR)
        cut = np.asarray(small, np.float64)[4:20, 2:17]
        wanted.append(((cut[..., ::-1] * 0.5 - [1, 2, 3]) / [4, 5, 6]).transpose(2, 0, 1))
    np.testing.assert_allclose(preprocess(images), np.array(wanted), rtol=1e-6)
    from_pil = preprocess.from_pil([Image.fromarray(image) for image in images])
    np.testing.assert_array_equal(from_pil, preprocess(images))


def test_flip_comes_before_the_mean() -> None:
    images = np.full((1, 1, 1, 3), (10, 20, 30), np.uint8)
    preprocess = Preprocess(flip_channels=True, rescale=1, mean=(30, 20, 10), std=(1, 1, 1))
    np.testing.assert_array_equal(preprocess(images).ravel(), [0, 0, 0])


def test_channels_last() -> None:
    images = _images(2, 3, 4, 3)
    first = Preprocess(mean=MEAN, std=STD)
    last = Preprocess(mean=MEAN, std=STD, channels_last=True)
    np.testing.assert_array_equal(last(images), first(images).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_resize_takes_any_number_of_channels(channels: int) -> None:
    images = _images(1, 9, 8, channels)
    got = Preprocess(size=(4, 5), rescale=1)(images)
    for channel in range(channels):
        plane = Image.fromarray(images[0, ..., channel]).resize((5, 4), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(got[0, channel], np.asarray(plane))


def test_resample_is_pillows() -> None:
    images = _images(1, 9, 8, 3)
    config = {"size": {"height": 4, "width": 5}, "resample": 3, "do_rescale": False}
    got = Preprocess.from_config(config)(images)[0].transpose(1, 2, 0)
    wanted = Image.fromarray(images[0]).resize((5, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, np.asarray(wanted))


def test_images_of_differing_size() -> None:
    images = [Image.fromarray(image) for image in (_images(30, 50, 3), _images(41, 20, 3))]
    got = Preprocess(shortest_edge=16, crop=(16, 16)).from_pil(images)
    assert got.shape == (2, 3, 16, 16)
    with pytest.raises(DataError, match="differ in size after preprocessing"):
        Preprocess(shortest_edge=16).from_pil(images)


def test_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(DataError, match="8 x 9 pixels is smaller than the crop 10 x 4"):
        Preprocess(crop=(4, 10))(_images(1, 9, 8, 3))


def test_absurdly_oblong_image_is_refused() -> None:
    with pytest.raises(DataError, match="would become"):
        Preprocess(shortest_edge=256)(_images(1, 1, 5000, 1))


@pytest.mark.parametrize("channels", [1, 4])
def test_mean_for_other_channels_is_refused(channels: int) -> None:
    with pytest.raises(DataError, match=f"image_mean has 3 values for images of {channels}"):
        Preprocess(mean=MEAN, std=STD)(_images(2, 4, 4, channels))


def test_one_mean_serves_all_channels() -> None:
    images = _images(1, 4, 4, 3)
    one = Preprocess(mean=(0.5,), std=(0.25,))(images)
    np.testing.assert_array_equal(one, Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)(images))


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8)])
def test_other_arrays_are_refused(images: Any) -> None:
    with pytest.raises(DataError, match=r"must be uint8\[N,H,W,C\]"):
        Preprocess()(images)


def test_palette_images_are_refused() -> None:
    with pytest.raises(DataError, match="mode P"):
        Preprocess().from_pil([Image.new("P", (4, 4))])


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(shortest_edge=256, crop=(224, 200), label_offset=1, rescale=1.0),
        Preprocess(size=(7, 9), resample=3, flip_channels=True, channels_last=True),
        Preprocess.from_mean_std(MEAN, STD),
    ],
)
def test_config_comes_back_the_same(preprocess: Preprocess) -> None:
    config = json.loads(json.dumps(preprocess.to_config()))
    assert Preprocess.from_config(config) == preprocess


def test_absent_flags_are_as_in_hugging_face() -> None:
    config = {"image_mean": MEAN, "image_std": STD, "crop_size": 8, "image_processor_type": "x"}
    assert Preprocess.from_config(config) == Preprocess(crop=(8, 8), mean=MEAN, std=STD)
    assert Preprocess.from_config({"resample": None}) == Preprocess()
    off = {"do_normalize": False, "do_resize": False, "do_center_crop": False, "size": 3}
    assert Preprocess.from_config({**config, **off}) == Preprocess()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_mean": [0], "image_std": [0]}, "image_std holds 0, and must be above 0"),
        ({"image_mean": [0], "image_std": [-1]}, "above 0"),
        ({"image_mean": [math.nan], "image_std": [1]}, "'image_mean' must be finite"),
        ({"image_mean": [10**400], "image_std": [1]}, "'image_mean' must be finite"),
        ({"image_mean": ["a"], "image_std": [1]}, "'image_mean' must be a number"),
        ({"image_mean": [], "image_std": [1]}, "'image_mean' must be a list"),
        ({"image_mean": [0]}, "'image_std' is missing"),
        ({"do_normalize": True}, "'image_mean' is missing"),
        ({"do_normalize": 1}, "'do_normalize' must be true or false"),
        ({"do_resize": True}, "'size.height' is missing"),
        ({"size": {"height": 4}}, "'size.width' is missing"),
        ({"size": 224}, "'size.height' is missing"),
        ({"size": {"shortest_edge": 10**9}}, "not between 1 and 8192"),
        ({"size": {"shortest_edge": 0}}, "not between 1 and 8192"),
        ({"crop_size": {"height": 10**30, "width": 4}}, "not between"),
        ({"crop_size": 2.5}, "'crop_size' must be a whole number"),
        ({"crop_size": True}, "'crop_size' must be a whole number"),
        ({"rescale_factor": "1"}, "'rescale_factor' must be a number"),
        ({"resample": 9}, "resample 9"),
        ({"label_offset": 0.5}, "'label_offset' must be a whole number"),
        ({"data_format": "nchw"}, "'data_format' must be channels_first or channels_last"),
        ({"data_format": []}, "'data_format'"),
    ],
)
def test_senseless_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Preprocess.from_config(config, "here.json")
    assert str(caught.value).startswith("here.json: ")


def test_values_that_overflow_are_refused() -> None:
    with pytest.raises(DataError, match="overflow float32"):
        Preprocess(rescale=1e300)(_images(1, 2, 2, 1))


def test_sidecar(tmp_path: Path) -> None:
    model = tmp_path / "net1.1_small.onnx"
    assert Preprocess.sidecar(model) is None
    beside = tmp_path / "net1.1_small.preprocess.json"
    beside.write_text(json.dumps(Preprocess(label_offset=1).to_config()))
    assert Preprocess.sidecar(str(model)) == Preprocess(label_offset=1)
    for text in ("{", "[1]", "[" * 100_000, " " * (2 << 20)):
        beside.write_text(text)
        with pytest.raises(DataError, match="not a preprocessing description"):
            Preprocess.sidecar(model)
    beside.write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="not a preprocessing description"):
        Preprocess.sidecar(model)


def test_sidecars_of_real_networks(shared_data: Path) -> None:
    sidecars = sorted((shared_data / "models").glob("*.preprocess.json"))
    assert sidecars
    for path in sidecars:
        model = path.with_name(path.name.replace(".preprocess.json", ".onnx"))
        config = json.loads(path.read_text())
        preprocess = Preprocess.sidecar(model)
        assert preprocess is not None
        assert preprocess.label_offset == config.get("label_offset", 0)
        assert preprocess.mean == tuple(config["image_mean"])
        assert preprocess.flip_channels == config["do_flip_channel_order"]
        assert (preprocess.shortest_edge is not None) == config["do_resize"]
