"""Random crops and flips of a whole batch in one gather."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Generator, Tensor
from torch.nn import functional

from robustdeq.base.errors import InputError


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
        if self.padding < 0:
            raise InputError(f"Cannot pad images by {self.padding} pixels: give a padding of 0 or more.")

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
        top, left, mirrored = (draw.to(x.device) for draw in self.draw(len(x), device, generator))
        return crop(x, self.padding, top, left, mirrored)

    def draw(
        self, n: int, device: torch.device, generator: Generator | None = None
    ) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"], Bool[Tensor, "n"]]:
        """Where the windows of `n` images lie, as `crop` takes it; the host never waits for the device.

        Args:
            n: number of images.
            device: where the draws are made and returned.
            generator: source of the draws, on `device`; None for torch's own.

        Returns:
            First row of each window, its first column, and whether it is mirrored.
        """
        top, left = torch.randint(2 * self.padding + 1, (2, n), generator=generator, device=device)
        mirrored = (torch.rand(n, generator=generator, device=device) < 0.5) & self.flip
        return top, left, mirrored


def crop(
    x: Shaped[Tensor, "batch channels height width"],
    padding: int,
    top: Int64[Tensor, "batch"],
    left: Int64[Tensor, "batch"],
    mirrored: Bool[Tensor, "batch"],
) -> Shaped[Tensor, "batch channels height width"]:
    """The window of each zero-padded image that has the size of the image and starts at a given pixel.

    Args:
        x: (batch, channels, height, width).
        padding: pixels of zeros on every side.
        top: (batch,), first row of the window, 0..2 padding.
        left: (batch,), first column of the window, 0..2 padding.
        mirrored: (batch,), whether the window is turned left to right.

    Returns:
        Same shape and dtype as `x`.
    """
    batch, channels, height, width = x.shape
    padded = functional.pad(x, [padding] * 4)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    sample = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
