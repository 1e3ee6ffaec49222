"""Labelled images: where they come from, how they are split, and how they are batched and augmented for training.

`load("digits")`, `load("cifar10")`, `load("owner/name")`, `load("a/file.parquet")` and `load("a/folder")` all give
`Splits` of `Images`; `Batches` goes through them, epoch by epoch, and `RandomCropFlip` augments a batch.
"""

from robustdeq.data.augmentation import RandomCropFlip
from robustdeq.data.batches import Batches
from robustdeq.data.images import Images, as_batch
from robustdeq.data.sources import load
from robustdeq.data.splits import Splits

__all__ = ["Batches", "Images", "RandomCropFlip", "Splits", "as_batch", "load"]
