"""Image geometry and decoding. Pillow is imported only where it is needed."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_SIDE = 8192  # pixels, of anything that we resize or crop to
_LARGEST_PIXELS = 1 << 27  # of a file that we decode, 400 MB as RGB

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


def import_pillow() -> ModuleType:
    """The `PIL.Image` module.

    Raises:
        DataError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "reading or resizing images needs Pillow", remedy="pip install pillow"
        ) from error
    return Image


def open_image(path: Path, *, grey: bool) -> Image:
    """Decode one image file.

    Args:
        path: the file.
        grey: one channel (mode L) instead of three (RGB).

    Raises:
        DataError: no Pillow, no image, a damaged one, or one of absurd size.
    """
    pillow = import_pillow()
    if not path.is_file():  # opening a pipe would wait for ever
        raise DataError("is no file", where=str(path), remedy="remove it from the data")
    try:
        with warnings.catch_warnings():
            # Our own limit is below the size that Pillow warns of.
            warnings.simplefilter("ignore")
            with pillow.open(path) as image:
                if image.width * image.height > _LARGEST_PIXELS:
                    raise DataError(
                        f"image of {image.width} x {image.height} pixels is too large",
                        where=str(path),
                        remedy="scale it down or remove it",
                    )
                converted: Image = image.convert("L" if grey else "RGB")
                return converted
    except DataError:
        raise
    except Exception as error:  # decoders fail in every way on damaged files
        raise DataError(
            f"cannot be read as an image ({type(error).__name__})",
            where=str(path),
            remedy="repair or remove it",
        ) from error


def target_size(
    current: tuple[int, ...], size: tuple[int, int] | None, shortest_edge: int | None
) -> tuple[int, int]:
    """(height, width) to resize an image to.

    Args:
        current: its height and width.
        size: the wanted height and width, or None.
        shortest_edge: the wanted length of the shorter side, or None; the longer
            one follows, rounded down as torchvision and Hugging Face do.

    Raises:
        DataError: the image is so oblong that the longer side has no sane length.
    """
    height, width = current
    if size is not None:
        return size
    if shortest_edge is None:
        return height, width
    longest = int(shortest_edge * max(height, width) / max(1, min(height, width)))
    if longest > LARGEST_SIDE:
        raise DataError(
            f"image of {width} x {height} pixels would become {longest} pixels long",
            remedy="remove it from the data",
        )
    return (shortest_edge, longest) if height <= width else (longest, shortest_edge)


def resize(image: NDArray[np.uint8], height: int, width: int, resample: int) -> NDArray[np.uint8]:
    """Resize a uint8 ``[H, W, C]`` image as Pillow does, antialiased, any C."""
    if image.shape[:2] == (height, width):
        return image
    if 0 in image.shape:
        raise DataError(f"image of shape {image.shape} has no pixels")
    pillow = import_pillow()
    # Channel by channel is the same for RGB and right for any other number: Pillow
    # would take a fourth channel for transparency.
    planes = [
        np.asarray(pillow.fromarray(np.ascontiguousarray(plane)).resize((width, height), resample))
        for plane in (np.moveaxis(image, 2, 0) if image.shape[2] != 3 else [image])
    ]
    return planes[0] if image.shape[2] == 3 else np.stack(planes, axis=2)


def centre_crop(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut the centre of an ``[H, W, C]`` image, rounded to the top and left.

    Raises:
        DataError: the image is smaller than that.
    """
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise DataError(
            f"image of {image.shape[1]} x {image.shape[0]} pixels is smaller than "
            f"the crop {width} x {height}",
            remedy="give the preprocessing a size to resize to",
        )
    return image[top : top + height, left : left + width]
