"""Batches that live on one device, depend on (seed, epoch, batch) alone, and can be resumed and shared by processes.

Global batch k of an epoch has b · W images for W processes with b each; process r takes its rows r, r + W, r + 2W, …
Order and augmentation are drawn for the global batch, so W processes with b images see together, row for row, what one
process with b · W images sees.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from robustdeq.base.errors import InputError, check_seed, require
from robustdeq.data.augmentation import RandomCropFlip, crop
from robustdeq.data.images import Images


class Batches:
    """An endless series of epochs, of which every iterator gives one; Lightning's `Trainer` takes it as a dataloader.

    Shuffled, an epoch is a permutation without the short last batch. In order, it is all images once: no process gets
    an image twice, all have the same number of batches, none of them empty, and their sizes differ by at most one. For
    that, the last global batch leaves every process an image, if need be at the expense of the one before it.

    An iterator that is left early ends its epoch; one from which nothing was drawn changes nothing. Drawing a batch
    never makes the host wait for the device, but for the order of the images once in an epoch.

    The series resumes from `state_dict`, in the middle of an epoch as well. A batch counts as soon as it is drawn:
    Lightning draws each one just before its step, so take a checkpoint between steps.

    Args:
        images: moved to `device` as they are, all at once.
        batch_size: images per batch and process.
        seed: of the order and the augmentation, 0 or positive.
        augmentation: of every batch; None for none. Its draws are made on `device`, and so depend on the kind of it.
        shuffle: whether an epoch is in random order, or in order.
        device: where the batches are made.
        rank: number of this process, 0..world-1.
        world: number of processes.

    Raises:
        InputError: there are no images, or too few for one batch or for `world` processes, or a number is out of range.
    """

    batch_sampler = None

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        seed: int = 0,
        augmentation: RandomCropFlip | None = None,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        require(batch_size >= 1, f"batch_size is {batch_size}; give 1 or more.")
        check_seed(seed)
        if not 0 <= rank < world:
            raise InputError(f"rank is {rank} in a world of {world}; give a rank from 0 to one less than the world.")
        self._borders = _borders(images, batch_size, world, shuffle)
        self._series = {"seed": seed, "images": len(images), "batch_size": batch_size * world}
        self._augmentation = augmentation
        self._shuffle = shuffle
        self._rows = slice(rank, None, world)
        self._device = torch.device(device)
        self._pixels, self._labels = images.pixels.to(self._device), images.labels.to(self._device)
        # A tensor, as a GPU multiplies by the rounded reciprocal of a number, which is not what `Images.tensors` gives.
        self._scale = torch.tensor(float(images.scale), device=self._device)
        self._drawn = 0
        self._start = 0
        self._resumed = False

    def __len__(self) -> int:
        """Batches per epoch, the same on every process."""
        return len(self._borders) - 1

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "batch *sample"], Int64[Tensor, "batch"]]]:
        """The (rest of the) next epoch: float32 images in [0, 1] and their labels, on the device."""
        epoch, first = divmod(self._start, len(self))
        self._start = (epoch + 1) * len(self)
        order = self._order(epoch)
        generator = Generator(self._device)
        for batch in range(first, len(self)):
            self._drawn = epoch * len(self) + batch + 1
            generator.manual_seed(_mixed(self._series["seed"], epoch, batch))
            yield self._batch(order[self._borders[batch] : self._borders[batch + 1]], generator)

    def state_dict(self) -> dict[str, int]:
        """How many batches went before, and what they were batches of."""
        return {"drawn": self._drawn} | self._series

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that `state` counts.

        Args:
            state: what `state_dict` returned, here or on another process, in a world of any size.

        Raises:
            InputError: it counts batches of another seed, number of images or global batch size.
        """
        for name, value in self._series.items():
            if state[name] != value:
                raise InputError(
                    f"Cannot resume with {name} {value} a run that had {state[name]}: "
                    "keep the seed, the images and the batch size times the number of processes."
                )
        self._drawn = self._start = state["drawn"]
        self._resumed = True

    @property
    def sampler(self) -> Batches:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, where it is not known from `load_state_dict`.

        Lightning says it before every epoch. After a checkpoint from the end of an epoch it is all that Lightning says.
        With a limit on the steps it loads the state of such a checkpoint too, but then is an epoch ahead of it.

        Args:
            epoch: 0 for the first.
        """
        if not self._resumed and self._start // len(self) != epoch:
            self._start = epoch * len(self)

    def _order(self, epoch: int) -> Int64[Tensor, "n"]:
        n = len(self._labels)
        if not self._shuffle:
            return torch.arange(n, device=self._device)
        generator = Generator().manual_seed(_mixed(self._series["seed"], epoch))
        return torch.randperm(n, generator=generator).to(self._device)

    def _batch(
        self, chosen: Int64[Tensor, "whole"], generator: Generator
    ) -> tuple[Float[Tensor, "batch *sample"], Int64[Tensor, "batch"]]:
        rows = chosen[self._rows]
        x = self._pixels[rows]
        if self._augmentation is not None:
            windows = self._augmentation.draw(len(chosen), self._device, generator)
            x = crop(x, self._augmentation.padding, windows[:, self._rows])
        return x.float() / self._scale, self._labels[rows]


def _borders(images: Images, batch_size: int, world: int, shuffle: bool) -> list[int]:
    n, whole = len(images), batch_size * world
    require(n != 0, f"{images.source} holds no images: give some.")
    if shuffle and whole > n:
        raise InputError(
            f"The batch_size {batch_size} times {world} process(es) is larger than the data, "
            f"the {n} images of {images.source}: give a smaller batch_size."
        )
    count = n // whole if shuffle else -(-n // whole)
    if n < count * world:
        raise InputError(
            f"Cannot share {n} images of {images.source} among {world} processes in batches of {batch_size} so that "
            "all have the same number of batches: give more images, fewer processes or a batch_size above 1."
        )
    return [min(k * whole, n - (count - k) * world) for k in range(count + 1)]


def _mixed(seed: int, *at: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=at).generate_state(1, np.uint64)[0])
