"""Random crops and flips of a whole batch in one gather."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, Shaped
from torch import Generator, Tensor
from torch.nn import functional

from robustdeq.base.errors import InputError, require


@dataclass(frozen=True)
class RandomCropFlip:
    """Shift every image by up to `padding` pixels, zeros moving in, and mirror it left to right with probability 1/2.

    Args:
        padding: pixels of zeros around the image from which it is cropped back.
        flip: whether to mirror.

    Raises:
        InputError: `padding` is negative.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        require(self.padding >= 0, f"Cannot pad images by {self.padding} pixels: give a padding of 0 or more.")

    def __call__(
        self, x: Shaped[Tensor, "batch channels height width"], generator: Generator | None = None
    ) -> Shaped[Tensor, "batch channels height width"]:
        """An augmented copy of `x`.

        Args:
            x: (batch, channels, height, width), any dtype and device.
            generator: source of the draws, on any device; None for torch's own.

        Returns:
            Same shape, dtype and device as `x`.
        """
        device = x.device if generator is None else generator.device
        return crop(x, self.padding, self.draw(len(x), device, generator).to(x.device))

    def draw(self, n: int, device: torch.device, generator: Generator | None = None) -> Int64[Tensor, "3 n"]:
        """Where the windows of `n` images lie, as `crop` takes it; the host never waits for the device.

        Args:
            n: number of images.
            device: where the draws are made and returned.
            generator: source of the draws, on `device`; None for torch's own.

        Returns:
            First row of each window, its first column, and whether it is mirrored (1, otherwise 0).
        """
        corners = torch.randint(2 * self.padding + 1, (2, n), generator=generator, device=device)
        mirrored = (torch.rand(n, generator=generator, device=device) < 0.5) & self.flip
        return torch.cat([corners, mirrored[None].long()])


def crop(
    x: Shaped[Tensor, "batch *sample"], padding: int, windows: Int64[Tensor, "3 batch"]
) -> Shaped[Tensor, "batch channels height width"]:
    """The window of each zero-padded image that has the size of the image and starts at a given pixel.

    Args:
        x: (batch, channels, height, width).
        padding: pixels of zeros on every side.
        windows: (3, batch), first row and first column of each window, 0..2 padding, and whether it is turned left to
            right, 0 or 1.

    Returns:
        Same shape and dtype as `x`.
    """
    if x.ndim != 4:
        raise InputError(f"samples of shape {tuple(x.shape[1:])} are no images; set augmentation to null.")
    batch, channels, height, width = x.shape
    top, left, mirrored = windows
    padded = functional.pad(x, [padding] * 4)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    columns = torch.where(mirrored[:, None] > 0, columns.flip(1), columns)
    sample = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
