"""From encoded images (JPEG, PNG, …) to one tensor of pixels."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from robustdeq.base.errors import InputError, require

CHANNELS = {"L": 1, "RGB": 3}


def decode(encoded: Sequence[bytes | Path], names: Sequence[str]) -> UInt8[Tensor, "n channels height width"]:
    """Decode images of one size and mode.

    Args:
        encoded: n ≥ 1 image files, or their contents.
        names: what to call each in an error.

    Returns:
        (n, channels, height, width), intensities 0..255; 1 channel for greyscale and 3 for RGB.

    Raises:
        InputError: an image cannot be read, is neither 8-bit greyscale nor RGB, or differs from the first one.
    """
    first = _decode_one(encoded[0], names[0])
    pixels = np.empty((len(encoded), *first.shape), dtype=np.uint8)
    for row, (item, name) in enumerate(zip(encoded, names, strict=True)):
        image = _decode_one(item, name)
        if image.shape != first.shape:
            raise InputError(
                f"{name} is {_size(image)} but {names[0]} is {_size(first)}: bring all images to one size and mode."
            )
        pixels[row] = image
    return torch.from_numpy(pixels)


def _decode_one(item: bytes | Path, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} cannot be read as an image: replace or remove it.") from error
    require(mode in CHANNELS, f"{name} has the mode {mode}: convert it to 8-bit greyscale (L) or RGB.")
    return pixels.reshape(*pixels.shape[:2], CHANNELS[mode]).transpose(2, 0, 1)


def _size(image: np.ndarray) -> str:
    return "×".join(map(str, image.shape))
