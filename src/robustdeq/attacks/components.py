"""The attacks of AutoAttack (Croce and Hein, ICML 2020), run by their authors' own code, `pyautoattack`.

The library sees one model. Here that is `Judged`: gradients from a surrogate, success from the model that counts.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks.judged import Judged
from robustdeq.attacks.pgd import checked, correct, warn_of_training
from robustdeq.base.errors import InputError
from robustdeq.base.threat import Norm, ThreatModel
from robustdeq.deq.modes import frozen

_SILENT = logging.Logger("pyautoattack", level=logging.CRITICAL + 1)


class _Seen(nn.Module):
    """A model as the library may call it: in single precision, on empty batches, wrong where it has no answer.

    What it returns may be written to.

    Args:
        model: the model.
        x: the images under attack, in the precision of the model.
        y: their labels. Logits that are not finite become logits that are wrong for the nearest of the images, so that
            the library takes a solve that it made diverge for the success that it is.
        classes: how many classes the model has.
    """

    def __init__(
        self, model: Judged, x: Float[Tensor, "batch *image"], y: Integer[Tensor, "batch"], classes: int
    ) -> None:
        super().__init__()
        self.model, self.images, self.labels, self.classes = model, x, y, classes

    def forward(self, x: Float[Tensor, "some *image"]) -> Float[Tensor, "some classes"]:
        if len(x) == 0:
            return x.new_zeros(0, self.classes)
        logits = self.model.answers(x.to(self.images.dtype)).float()
        finite = logits.isfinite().all(dim=1, keepdim=True)
        if finite.all():
            return logits.clone()
        nearest = torch.cdist(x.detach().flatten(1), self.images.flatten(1).float()).argmin(dim=1)
        wrong = -nn.functional.one_hot(self.labels[nearest], self.classes).float()
        return torch.where(finite, logits, wrong)


@contextmanager
def _library() -> Iterator[None]:
    """Within it the default precision is single, as the library takes for granted; its seeding is undone at the end."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _check_positive(attack: Component, **settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name} is {value}; {type(attack).__name__} needs at least 1.")


@dataclass(frozen=True)
class Component(ABC):
    """One attack of the ensemble, on pixels in [0, 1]; it searches in single precision whatever that of the model.

    Args:
        eps: the radius of the ball, in the units of pixels.
        norm: `"Linf"` or `"L2"`.
        seed: of everything random in it.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float = 8 / 255
    norm: str = "Linf"
    seed: int = 0

    least_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.threat  # noqa: B018

    @property
    def threat(self) -> ThreatModel:
        """The ball it stays in."""
        return ThreatModel(self.eps, self.norm)

    @property
    @abstractmethod
    def name(self) -> str:
        """What its authors call it."""

    @property
    @abstractmethod
    def gradients(self) -> int:
        """How many input gradients it takes per image, at most."""

    @property
    @abstractmethod
    def queries(self) -> int:
        """How many forward passes it takes per image beyond those, at most."""

    @abstractmethod
    def build(self, model: nn.Module, classes: int) -> Any:
        """The library's attack on a model with so many classes."""

    def check(self, x: Float[Tensor, "batch *image"], classes: int) -> None:
        """Raise `InputError` where it cannot attack such images, or a model with so many classes."""
        if classes < self.least_classes:
            raise InputError(
                f"{self.name} needs {self.least_classes} classes and the model has {classes}; leave it out, as in "
                "AutoAttack(version='custom', attacks=(...))."
            )

    @torch.no_grad()
    def __call__(
        self,
        surrogate: nn.Module,
        x: Float[Tensor, "batch *image"],
        y: Integer[Tensor, "batch"],
        target: nn.Module | None = None,
    ) -> Float[Tensor, "batch *image"]:
        """Make adversaries.

        Args:
            surrogate: the model whose gradient is climbed: a `Surrogate`, or any module x → logits.
            x: the images, pixels in [0, 1].
            y: their labels.
            target: the model that decides, all along, what has succeeded (see `Judged`); None for the surrogate.

        Returns:
            The adversaries, within the threat model; an image that is misclassified as it is, or that withstood the
            attack, is returned as it is.

        Raises:
            InputError: x or y cannot be used, or the attack does not apply to such images or so few classes.
        """
        judge = surrogate if target is None else target
        warn_of_training(surrogate, judge)
        standing, classes = stand(self.threat, judge, x, y)
        self.check(x, classes)
        adversaries = x.clone()
        if standing.any():
            found = self._search(Judged(surrogate, target), x[standing], y[standing].long(), classes)
            adversaries[standing] = self.threat.project(found, x[standing])
        return adversaries

    def _search(
        self, model: Judged, x: Float[Tensor, "batch *image"], y: Integer[Tensor, "batch"], classes: int
    ) -> Float[Tensor, "batch *image"]:
        seen = _Seen(model, x, y, classes)
        with frozen(seen), _library():
            return self.build(seen, classes).perturb(x.float().contiguous(), y).to(x.dtype)


def stand(
    threat: ThreatModel, judge: nn.Module, x: Float[Tensor, "batch *image"], y: Integer[Tensor, "batch"]
) -> tuple[Bool[Tensor, "batch"], int]:
    """Which images a model classifies correctly, and how many classes it has."""
    threat.check(x, y)
    with torch.no_grad():
        logits = judge(x)
    return checked(correct, y.long())(logits), logits.shape[1]


class APGDLoss(StrEnum):
    """What APGD climbs: cross-entropy, or the difference of logits ratio, which no scale of the logits changes."""

    CE = "ce"
    DLR = "dlr"


@dataclass(frozen=True)
class APGD(Component):
    """Auto-PGD: projected gradient ascent with momentum that halves its step size where progress stalls.

    `eps`, `norm` and `seed` are those of `Component`.

    Args:
        loss: `"ce"` (cross-entropy) or `"dlr"` (difference of logits ratio; 3 classes or more).
        steps: how many steps a run takes.
        restarts: how many runs, each from a random point, on the images that the ones before did not fool.

    Raises:
        InputError: a setting is out of its range.
    """

    loss: str = "ce"
    steps: int = 100
    restarts: int = 1

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, steps=self.steps, restarts=self.restarts)
        if self.loss not in list(APGDLoss):
            raise InputError(f"loss is {self.loss!r}; choose one of {', '.join(repr(str(loss)) for loss in APGDLoss)}.")

    @property
    @override
    def name(self) -> str:
        return f"apgd-{self.loss}"

    @property
    @override
    def gradients(self) -> int:
        return self.restarts * (self.steps + 1)

    @property
    @override
    def queries(self) -> int:
        return 2

    @override
    def check(self, x: Float[Tensor, "batch *image"], classes: int) -> None:
        super().check(x, classes)
        if self.loss == APGDLoss.DLR and classes < 3:
            raise InputError(f"the loss 'dlr' needs 3 classes and the model has {classes}; choose APGD(loss='ce').")

    @override
    def build(self, model: nn.Module, classes: int) -> APGDAttack:
        return APGDAttack(
            model,
            n_iter=self.steps,
            norm=str(self.norm),
            n_restarts=self.restarts,
            eps=self.eps,
            seed=self.seed,
            loss=str(self.loss),
            logger=_SILENT,
        )


@dataclass(frozen=True)
class TargetedAPGD(Component):
    """Auto-PGD on the targeted difference of logits ratio, one class after another, the likeliest wrong one first.

    `eps`, `norm` and `seed` are those of `Component`. It needs a model with 4 classes or more.

    Args:
        targets: how many classes are tried, at most all that are wrong.
        steps: how many steps a run takes.
        restarts: how many runs for each class.

    Raises:
        InputError: a setting is out of its range.
    """

    targets: int = 9
    steps: int = 100
    restarts: int = 1

    least_classes: ClassVar[int] = 4

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, targets=self.targets, steps=self.steps, restarts=self.restarts)

    @property
    @override
    def name(self) -> str:
        return "apgd-t"

    @property
    @override
    def gradients(self) -> int:
        return self.targets * self.restarts * (self.steps + 1)

    @property
    @override
    def queries(self) -> int:
        return self.targets * self.restarts + 2

    @override
    def build(self, model: nn.Module, classes: int) -> APGDAttack_targeted:
        return APGDAttack_targeted(
            model,
            n_iter=self.steps,
            norm=str(self.norm),
            n_restarts=self.restarts,
            eps=self.eps,
            seed=self.seed,
            n_target_classes=min(self.targets, classes - 1),
            logger=_SILENT,
        )


@dataclass(frozen=True)
class FAB(Component):
    """Fast adaptive boundary attack (Croce and Hein, ICML 2020): the nearest point across the linearised boundary.

    `eps`, `norm` and `seed` are those of `Component`. Every step takes the gradient of every logit.

    Args:
        steps: how many steps a run takes.
        restarts: how many runs; the first starts from the image, the others from random points.

    Raises:
        InputError: a setting is out of its range.
    """

    steps: int = 100
    restarts: int = 1

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, steps=self.steps, restarts=self.restarts)

    @property
    @override
    def name(self) -> str:
        return "fab"

    @property
    @override
    def gradients(self) -> int:
        """The same; one step counts as one, though it takes one backward pass per class."""
        return self.restarts * self.steps

    @property
    @override
    def queries(self) -> int:
        return self.restarts * (self.steps + 2) + 2

    @override
    def build(self, model: nn.Module, classes: int) -> FABAttack_PT:
        return FABAttack_PT(
            model,
            norm=str(self.norm),
            n_restarts=self.restarts,
            n_iter=self.steps,
            eps=self.eps,
            seed=self.seed,
        )


@dataclass(frozen=True)
class TargetedFAB(FAB):
    """FAB towards one class after another, the likeliest wrong one first: one gradient per step.

    `eps`, `norm` and `seed` are those of `Component`, `steps` and `restarts`, for each class, those of `FAB`.

    Args:
        targets: how many classes are tried, at most all that are wrong.

    Raises:
        InputError: a setting is out of its range.
    """

    targets: int = 9

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, targets=self.targets)

    @property
    @override
    def name(self) -> str:
        return "fab-t"

    @property
    @override
    def gradients(self) -> int:
        return self.targets * self.restarts * self.steps

    @property
    @override
    def queries(self) -> int:
        return self.targets * self.restarts * (self.steps + 3) + 2

    @override
    def build(self, model: nn.Module, classes: int) -> FABAttack_PT:
        attack = super().build(model, classes)
        attack.targeted, attack.n_target_classes = True, min(self.targets, classes - 1)
        return attack


@dataclass(frozen=True)
class Square(Component):
    """The Square attack (Andriushchenko et al., ECCV 2020): random squares, kept where they help; no gradient at all.

    `eps`, `norm` and `seed` are those of `Component`. It needs images (B, C, H, W).

    Args:
        queries: how often each image is tried, per run.
        restarts: how many runs.

    Raises:
        InputError: a setting is out of its range.
    """

    queries: int = 5000  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    restarts: int = 1

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, queries=self.queries, restarts=self.restarts)

    @property
    @override
    def name(self) -> str:
        return "square"

    @property
    @override
    def gradients(self) -> int:
        return 0

    @override
    def check(self, x: Float[Tensor, "batch *image"], classes: int) -> None:
        super().check(x, classes)
        if x.ndim != 4:
            raise InputError(
                f"x has shape {tuple(x.shape)} and square needs images (B, C, H, W); leave it out, as in "
                "AutoAttack(version='custom', attacks=(...))."
            )
        if self.norm == Norm.L2:
            height, width = x.shape[2:]
            tile = height // 5
            margin = (height - 5 * tile) // 2
            if tile == 0 or (tile > 1 and any(margin + side // tile * tile > side for side in (height, width))):
                raise InputError(
                    f"square cannot tile images of {height} × {width} pixels for L2; pad them, or leave it out, as in "
                    "AutoAttack(version='custom', attacks=(...))."
                )

    @override
    def build(self, model: nn.Module, classes: int) -> SquareAttack:
        return SquareAttack(
            model,
            norm=str(self.norm),
            n_queries=self.queries,
            eps=self.eps,
            n_restarts=self.restarts,
            seed=self.seed,
            resc_schedule=False,
        )
