"""What is climbed and what counts: the losses of logits and labels, and whether a sample is classified correctly."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from robustdeq.base.errors import InputError
from robustdeq.base.shapes import Labels, Logits, Mask, PerSample
from robustdeq.deq.model import Loss

LabelledLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Logits, y: Labels) -> PerSample:
    """The cross-entropy of each sample, in nats."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def correct(logits: Logits, y: Labels) -> Mask:
    """Whether each sample is classified as y; logits that are not finite never are."""
    return (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)


def checked(loss: LabelledLoss, y: Labels) -> Loss:
    """The loss with its labels bound to it; raises `InputError` when it meets logits that lack one of them."""
    low, high = int(y.min()), int(y.max())

    def bound(logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        if low < 0 or high >= classes:
            raise InputError(
                f"y has labels from {low} to {high}, and the model has classes 0 to {classes - 1}; "
                "evaluate it on the data it was made for."
            )
        return loss(logits, y)

    return bound
