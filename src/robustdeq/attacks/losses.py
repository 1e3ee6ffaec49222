"""What is climbed and what counts: the losses of logits and labels, and whether a sample is classified correctly."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import torch
from jaxtyping import Int
from torch import Tensor, nn

from robustdeq.base.errors import InputError, look_up
from robustdeq.base.shapes import Labels, Logits, Mask, PerSample
from robustdeq.deq.model import Loss

LabelledLoss = Callable[[Tensor, Tensor], Tensor]
"""A loss of logits (B, K) and the classes to be left, (B,), for each sample."""

TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss of logits (B, K), the classes to be left and those to be reached, (B,) both, for each sample."""


_KNOWN: dict[str, Callable[..., Tensor]] = {}


def register(loss: str | LabelledLoss) -> str:
    """The name of a loss, under which `named` finds it again: settings hold the name and stay plain values.

    Args:
        loss: the name of a known loss, or any function, which is known by its name from then on.

    Raises:
        InputError: there is no loss of that name, another one has it already, or it does not take logits and labels.
    """
    return _register(loss, "logits and the classes to be left")


def register_targeted(loss: str | TargetedLoss) -> str:
    """The same of a loss that takes the classes to be reached, too."""
    return _register(loss, "logits, the classes to be left", "those to be reached")


def _register(loss: str | Callable[..., Tensor], *taken: str) -> str:
    if isinstance(loss, str):
        name, loss = loss, named(loss)
    else:
        name = getattr(loss, "__name__", type(loss).__name__)
    if not _takes(loss, 1 + len(taken)):
        raise InputError(f"the loss {name!r} does not take {' and '.join(taken)}; give one that does.")
    if _KNOWN.setdefault(name, loss) is not loss:
        raise InputError(f"there is another loss named {name!r}; give this one a name of its own.")
    return name


def _takes(loss: Callable[..., Tensor], arguments: int) -> bool:
    try:
        signature(loss).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # it is not written in Python and does not tell
        pass
    return True


def named(name: str) -> Callable[..., Tensor]:
    """The loss of that name; raises `InputError` where there is none."""
    return look_up("loss", name, _KNOWN)


def cross_entropy(logits: Logits, y: Labels) -> PerSample:
    """The cross-entropy of each sample, in nats."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Logits, y: Labels) -> PerSample:
    """By how much the likeliest wrong class exceeds y, max_{j ≠ y} z_j − z_y (Carlini and Wagner, S&P 2017, f_6)."""
    return _wrong(logits, y).amax(dim=1) - _of(logits, y)


def probability_margin(logits: Logits, y: Labels) -> PerSample:
    """The same of the probabilities, max_{j ≠ y} p_j − p_y.

    Source: Xie et al., "Towards million-scale adversarial robustness evaluation with stronger individual attacks",
    2024, Eq. 5.
    """
    return margin(logits.softmax(dim=1), y)


def targeted_margin(logits: Logits, y: Labels, target: Labels) -> PerSample:
    """By how much the target exceeds y, z_t − z_y."""
    return _of(logits, target) - _of(logits, y)


def targeted_probability_margin(logits: Logits, y: Labels, target: Labels) -> PerSample:
    """The same of the probabilities, p_t − p_y."""
    return targeted_margin(logits.softmax(dim=1), y, target)


def targeted_dlr(logits: Logits, y: Labels, target: Labels) -> PerSample:
    """The targeted difference of logits ratio, (z_t − z_y) / (z_(1) − (z_(3) + z_(4)) / 2), of 4 classes or more.

    Args:
        logits: of each sample.
        y: the classes to be left.
        target: the classes t to be reached.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, Eq. 7.
    """
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(dim=1)
    return targeted_margin(logits, y, target) / (first - (third + fourth) / 2 + 1e-12)


def wrong_classes(logits: Logits, y: Labels) -> Int[Tensor, "batch wrong"]:
    """The classes other than y of each sample, the likeliest first."""
    return _wrong(logits, y).argsort(dim=1, descending=True)[:, :-1]


def _of(logits: Logits, classes: Labels) -> PerSample:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _wrong(logits: Logits, y: Labels) -> Logits:
    """The logits with that of y out of the running."""
    return logits.scatter(1, y[:, None], -torch.inf)


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


for _loss in (cross_entropy, margin, probability_margin):
    register(_loss)
for _targeted in (targeted_margin, targeted_probability_margin, targeted_dlr):
    register_targeted(_targeted)
