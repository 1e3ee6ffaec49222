"""A labelled set of images, kept as the integers it was stored as and scaled to [0, 1] when read; or of features."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from jaxtyping import Float, Int64, Num
from torch import Tensor

from robustdeq.base.errors import InputError, require

Batch = TypeVar("Batch")


@dataclass(frozen=True, eq=False)
class Images:
    """Images, or features, of one size with one label each; a map-style dataset for `torch.utils.data.DataLoader`.

    The loader should fetch a batch in one gather: `DataLoader(images, batch_size=128, collate_fn=as_batch)`.

    Args:
        pixels: (n, channels, height, width), integer intensities 0..`scale`; or (n, …), features in single precision.
        labels: (n,), index into `classes`.
        classes: name of each class.
        source: the dataset or file, and the part of it, that these images are.
        scale: the intensity that counts as 1; 255 for ordinary images, 1 for features.

    Raises:
        InputError: pixels and labels differ in number, or a label has no class.
    """

    pixels: Num[Tensor, "n *sample"] = field(repr=False)
    labels: Int64[Tensor, "n"] = field(repr=False)
    classes: tuple[str, ...]
    source: str
    scale: int = 255

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise InputError(
                f"{self.source} has {len(self.pixels)} images but {len(self.labels)} labels: give one label per image."
            )
        stray = self.labels[(self.labels < 0) | (self.labels >= len(self.classes))]
        if len(stray):
            raise InputError(
                f"{self.source} has the label {int(stray[0])}, outside 0..{len(self.classes) - 1}: "
                "remove unlabelled images and number the classes from 0."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "*sample"], Int64[Tensor, ""]]:
        """One sample, an image in [0, 1], and its label."""
        return self._unit(self.pixels[index]), self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Float[Tensor, "batch *sample"], Int64[Tensor, "batch"]]:
        """The images in [0, 1] and the labels at `indices`, already batched (see `as_batch`)."""
        return self.subset(indices).tensors()

    def subset(self, indices: Sequence[int] | Int64[Tensor, "chosen"] | slice, part: str = "") -> "Images":
        """The images at `indices`, in that order; a slice shares memory.

        Args:
            indices: positions in 0..n-1.
            part: what this part of the whole is, appended to `source`.

        Returns:
            Images of the same classes and scale.
        """
        source = f"{self.source}, {part}" if part else self.source
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices], source=source)

    def head(self, n: int) -> "Images":
        """The first `n` images, or all of them where there are fewer.

        Raises:
            InputError: `n` is not positive.
        """
        require(n >= 1, f"Cannot take the first {n} images of {self.source}: ask for at least 1.")
        return self if n >= len(self) else self.subset(slice(n), part=f"first {n} of {len(self)}")

    def tensors(self) -> tuple[Float[Tensor, "n *sample"], Int64[Tensor, "n"]]:
        """All images, float32 in [0, 1], and all labels."""
        return self._unit(self.pixels), self.labels

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the pixels (with their shape and scale) and the labels."""
        digest = hashlib.sha256(f"{tuple(self.pixels.shape)} {self.scale}".encode())
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def _unit(self, pixels: Num[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return pixels.float() / self.scale


def as_batch(batch: Batch) -> Batch:
    """Collate function for a loader over `Images`: `__getitems__` has already made the batch."""
    return batch
