"""From encoded images (JPEG, PNG, …) to one tensor of pixels."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from robustdeq.base.errors import InputError, require
from robustdeq.base.extras import extra

CHANNELS = {"L": 1, "RGB": 3}
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, by code within this process; some formats that Pillow knows start a program."""
MOST_PIXELS = 2**24
"""Of an image, in all its channels."""
MOST_BYTES = 2**33
"""Of a set of images, or features, as they are stored."""


def decode(
    encoded: Iterable[bytes | Path], count: int, name: Callable[[int], str]
) -> UInt8[Tensor, "n channels height width"]:
    """Decode images of one size and mode, one after the other.

    Args:
        encoded: image files, or their contents.
        count: how many of them, n ≥ 1.
        name: what to call each in an error, by its place.

    Returns:
        (n, channels, height, width), intensities 0..255; 1 channel for greyscale and 3 for RGB.

    Raises:
        InputError: an image cannot be read, is neither 8-bit greyscale nor RGB, differs from the first one, or they are
            larger than `MOST_PIXELS` or `MOST_BYTES`.
    """
    pixels = np.empty(0, dtype=np.uint8)
    for row, item in zip(range(count), encoded, strict=False):
        image = _decode_one(item, name(row))
        if row == 0:
            check_bytes(count * image.size, f"{count:,} images such as {name(0)}")
            pixels = np.empty((count, *image.shape), dtype=np.uint8)
        if image.shape != pixels.shape[1:]:
            ours, first = ("×".join(map(str, shape)) for shape in (image.shape, pixels.shape[1:]))
            raise InputError(f"{name(row)} is {ours} but {name(0)} is {first}: bring all images to one size and mode.")
        pixels[row] = image
    return torch.from_numpy(pixels)


def _decode_one(item: bytes | Path, name: str) -> np.ndarray:
    with extra("data"):
        from PIL import Image
    try:
        content = item if isinstance(item, bytes) else regular(item).read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode, (width, height) = image.mode, image.size
            require(mode in CHANNELS, f"{name} has the mode {mode}: convert it to 8-bit greyscale (L) or RGB.")
            if CHANNELS[mode] * width * height > MOST_PIXELS:
                raise InputError(f"{name} has {width}×{height} pixels, too many to be read: make it smaller.")
            pixels = np.asarray(image)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be read as an image: replace or remove it.") from error
    return pixels.reshape(height, width, CHANNELS[mode]).transpose(2, 0, 1)


def check_bytes(size: int, what: str) -> None:
    """Raise `InputError` where data takes more than `MOST_BYTES`."""
    if size > MOST_BYTES:
        raise InputError(
            f"{what} take {size / 2**30:,.0f} GiB, more than {MOST_BYTES >> 30}: give fewer or smaller ones."
        )


def regular(path: Path) -> Path:
    """The path of a file; raises `InputError` for a pipe or a device, which may have no end."""
    require(path.is_file() or not path.exists(), f"{path} is a pipe, a socket or a device: give a file.")
    return path
