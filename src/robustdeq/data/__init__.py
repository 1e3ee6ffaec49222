"""Labelled images: where they come from, how they are split, and how a training batch is augmented.

`load("digits")`, `load("cifar10")`, `load("owner/name")`, `load("a/file.parquet")` and `load("a/folder")` all give
`Splits` of `Images`; `RandomCropFlip` augments a batch of them.
"""

from robustdeq.data.augmentation import RandomCropFlip
from robustdeq.data.images import Images, as_batch
from robustdeq.data.sources import load
from robustdeq.data.splits import Splits

__all__ = ["Images", "RandomCropFlip", "Splits", "as_batch", "load"]
