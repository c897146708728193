"""From images to what a network was trained on.

The description uses the keys of Hugging Face's ``preprocessor_config.json`` and the
order of its image processors: resize, centre crop, channel order, rescale,
normalise. The order matters: SqueezeNet has 64.5 % of a test set right with it and
58.2 % with the channels flipped last.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.config import ConfigReader
from graphpass_runtime.errors import DataError
from graphpass_runtime.images import LARGEST_SIDE, centre_crop, resize, target_size

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDECAR_LIMIT = 1 << 20  # bytes; a description has a few hundred

_UINT8_SCALE = 1 / 255


@dataclass(frozen=True)
class Preprocess:
    """How uint8 images become the input of a network.

    Attributes:
        shortest_edge: resize so that the shorter side has this many pixels, or None.
        size: resize to this (height, width), or None.
        resample: Pillow's number of the resize filter; 2 is bilinear.
        crop: cut this (height, width) from the centre, or None.
        flip_channels: reverse the channels (RGB to BGR).
        rescale: factor on the pixel values 0..255.
        mean: subtracted after rescaling; one value per output channel or for all.
        std: divides after that; likewise.
        channels_last: the result is NHWC instead of NCHW.
        label_offset: added to labels (1 for networks with a background class 0).

    Raises:
        DataError: a value that makes no sense.
    """

    shortest_edge: int | None = None
    size: tuple[int, int] | None = None
    resample: int = 2
    crop: tuple[int, int] | None = None
    flip_channels: bool = False
    rescale: float = _UINT8_SCALE
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels_last: bool = False
    label_offset: int = 0

    def __post_init__(self) -> None:
        """Check the values, so that nothing fails or hangs in the middle of a data set."""
        sides = [self.shortest_edge, *(self.size or ()), *(self.crop or ())]
        for side in sides:
            if side is not None and not 1 <= side <= LARGEST_SIDE:
                raise _bad(f"image size {side} is not between 1 and {LARGEST_SIDE}")
        if not 0 <= self.resample <= 5:
            raise _bad(f"resample {self.resample} is no filter of Pillow, which has 0 to 5")
        if abs(self.label_offset) > 1 << 31:
            raise _bad(f"label_offset {self.label_offset} is out of range")
        if not self.mean or not self.std:
            raise _bad("image_mean and image_std need at least one value")
        if not all(map(math.isfinite, (self.rescale, *self.mean, *self.std))):
            raise _bad("rescale_factor, image_mean and image_std must be finite")
        if min(self.std) <= 0:
            raise _bad(f"image_std holds {min(self.std):g}, and must be above 0")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str | None = None) -> Preprocess:
        """Read the keys of a ``preprocessor_config.json``; others are ignored.

        A step whose ``do_`` flag is absent is done when its values are there;
        rescaling, as Hugging Face has it, is done by 1/255 unless switched off.

        Args:
            config: the parsed JSON object.
            where: what to call it in an error.

        Raises:
            DataError: a missing, mistyped or senseless value.
        """
        read = ConfigReader(config, where)
        shortest_edge = size = crop = None
        if read.flag("do_resize", default="size" in config):
            if read.has("size", "shortest_edge"):
                shortest_edge = read.integer("size", "shortest_edge")
            else:
                size = read.integer("size", "height"), read.integer("size", "width")
        if read.flag("do_center_crop", default="crop_size" in config):
            if read.is_object("crop_size"):
                crop = read.integer("crop_size", "height"), read.integer("crop_size", "width")
            else:
                crop = (read.integer("crop_size"),) * 2
        rescale = 1.0
        if read.flag("do_rescale", default=True):
            rescale = read.number("rescale_factor", default=_UINT8_SCALE)
        mean, std = cls.mean, cls.std
        if read.flag("do_normalize", default="image_mean" in config):
            mean, std = read.numbers("image_mean"), read.numbers("image_std")
        layout = read.choice("data_format", ("channels_first", "channels_last"))
        try:
            return cls(
                shortest_edge=shortest_edge,
                size=size,
                resample=read.integer("resample", default=2),
                crop=crop,
                flip_channels=read.flag("do_flip_channel_order", default=False),
                rescale=rescale,
                mean=mean,
                std=std,
                channels_last=layout == "channels_last",
                label_offset=read.integer("label_offset", default=0),
            )
        except DataError as error:
            raise DataError(error.problem, where=where, remedy=error.remedy) from None

    @classmethod
    def from_mean_std(cls, mean: Sequence[float], std: Sequence[float]) -> Preprocess:
        """Scale to 0..1, subtract the mean, divide by the deviation, per output channel.

        Raises:
            DataError: a value that makes no sense.
        """
        return cls(mean=tuple(map(float, mean)), std=tuple(map(float, std)))

    @classmethod
    def sidecar(cls, model_path: str | os.PathLike[str]) -> Preprocess | None:
        """What ``MODEL.preprocess.json`` beside ``MODEL.onnx`` says; None without one.

        Raises:
            DataError: the file is there, and is not a description.
        """
        model = Path(model_path)
        stem = model.stem if model.suffix == ".onnx" else model.name
        path = model.with_name(f"{stem}.preprocess.json")
        return cls.from_file(path) if path.is_file() else None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Preprocess:
        """Read a description from a JSON file.

        Raises:
            DataError: the file cannot be read, or is not a description.
        """
        path = Path(path)
        try:
            if path.stat().st_size > _SIDECAR_LIMIT:
                raise ValueError("it is over 1 MiB")
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("it is no JSON object")
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror})", where=str(path), remedy="check the path"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"is not a preprocessing description ({error})",
                where=str(path),
                remedy="give the keys of a preprocessor_config.json",
            ) from error
        return cls.from_config(config, where=str(path))

    def to_config(self) -> dict[str, Any]:
        """Inverse of `from_config`: plain JSON values."""
        config: dict[str, Any] = {
            "do_resize": self.size is not None or self.shortest_edge is not None,
            "do_center_crop": self.crop is not None,
            "do_flip_channel_order": self.flip_channels,
            "do_rescale": self.rescale != 1.0,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "data_format": "channels_last" if self.channels_last else "channels_first",
        }
        if self.shortest_edge is not None:
            config["size"] = {"shortest_edge": self.shortest_edge}
        elif self.size is not None:
            config["size"] = {"height": self.size[0], "width": self.size[1]}
        if config["do_resize"]:
            config["resample"] = self.resample
        if self.crop is not None:
            config["crop_size"] = {"height": self.crop[0], "width": self.crop[1]}
        if self.label_offset:
            config["label_offset"] = self.label_offset
        return config

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Preprocess images of one size.

        Args:
            images: uint8 array ``[N, H, W, C]``.

        Returns:
            float32 array ``[N, C, H, W]``, or ``[N, H, W, C]`` with `channels_last`.

        Raises:
            DataError: another dtype or rank, an image smaller than the crop, or a
                mean for another number of channels.
        """
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"images must be uint8[N,H,W,C], got {images.dtype} of shape {images.shape}"
            )
        if not images.shape[0]:
            return self._normalise(images)
        return self._normalise(np.stack([self._frame(image) for image in images]))

    def from_pil(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Preprocess Pillow images of mode L or RGB, which may differ in size.

        Args:
            images: taken one at a time, so that only the small results add up.

        Returns:
            As for a call.

        Raises:
            DataError: as for a call; or sizes that still differ after resize and crop.
        """
        frames = [self._frame(_pixels(image)) for image in images]
        shapes = {frame.shape for frame in frames}
        if len(shapes) > 1:
            raise DataError(
                f"images differ in size after preprocessing: {sorted(shapes)[:2]}",
                remedy="give the preprocessing a size and a crop_size",
            )
        return self._normalise(np.stack(frames))

    def _frame(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop one uint8 ``[H, W, C]`` image."""
        height, width = target_size(image.shape[:2], self.size, self.shortest_edge)
        image = resize(image, height, width, self.resample)
        return image if self.crop is None else centre_crop(image, *self.crop)

    def _normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Channel order, rescale, normalise and layout of uint8 ``[N, H, W, C]``."""
        if self.flip_channels:
            images = images[..., ::-1]
        if not self.channels_last:
            images = images.transpose(0, 3, 1, 2)
        axis = 3 if self.channels_last else 1
        channels = images.shape[axis]
        out = np.empty(images.shape, np.float32)
        for channel, table in enumerate(self._tables(channels)):
            index = (slice(None),) * axis + (channel,)
            out[index] = table[images[index]]
        return out

    def _tables(self, channels: int) -> NDArray[np.float32]:
        """What each of the 256 pixel values becomes, ``[C, 256]``.

        A pixel has 256 values: computing them once in float64 is exact to the last
        bit of float32, and faster than arithmetic on every pixel.
        """
        for key, values in (("image_mean", self.mean), ("image_std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(
                    f"{key} has {len(values)} values for images of {channels} channel(s)",
                    remedy="give one value per channel",
                )
        mean, std = np.array(self.mean)[:, None], np.array(self.std)[:, None]
        with np.errstate(over="ignore"):
            tables = ((np.arange(256) * self.rescale - mean) / std).astype(np.float32)
        if not np.isfinite(tables).all():
            raise _bad("the normalised pixel values overflow float32")
        return np.broadcast_to(tables, (channels, 256))


def _pixels(image: Image) -> NDArray[np.uint8]:
    if image.mode not in ("L", "RGB"):
        # Others hold palette indices, transparency, or more than 8 bits.
        raise DataError(f"image has mode {image.mode}", remedy="convert it to RGB or L")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _bad(problem: str) -> DataError:
    return DataError(problem, remedy="correct the preprocessing description")
