"""The attacks of AutoAttack (Croce and Hein, ICML 2020), run by their authors' own code, `pyautoattack`.

The library sees one model. Here that is `Judged`: gradients from a surrogate, success from the model that counts. It
takes pixels in [0, 1] for granted; images within other bounds, and the radius, are scaled for it.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks.base import BallAttack, Cost
from robustdeq.attacks.judged import Judged
from robustdeq.attacks.losses import checked, correct
from robustdeq.base.errors import InputError, check_choice, check_counts, check_seed
from robustdeq.base.extras import extra
from robustdeq.base.norms import Norm
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Labels, Mask, Pixels
from robustdeq.deq.modes import frozen

_SILENT = logging.Logger("pyautoattack", level=logging.CRITICAL + 1)


class _Seen(nn.Module):
    """A model as the library may call it: in single precision, on pixels in [0, 1], on empty batches, always finite.

    What it returns may be written to.

    Args:
        model: the model.
        bounds: what 0 and 1 stand for in the model's images.
        x: the images under attack, pixels in [0, 1], in the precision of the model.
        y: their labels. Logits that are not finite become logits that are wrong for the nearest of the images, so that
            the library takes a solve that it made diverge for the success that it is.
        classes: how many classes the model has.
    """

    def __init__(self, model: Judged, bounds: tuple[float, float], x: Pixels, y: Labels, classes: int) -> None:
        super().__init__()
        self.model, self.bounds, self.images, self.labels, self.classes = model, bounds, x, y, classes

    def forward(self, x: Float[Tensor, "some *image"]) -> Float[Tensor, "some classes"]:
        if len(x) == 0:
            return x.new_zeros(0, self.classes)
        low, high = self.bounds
        logits = self.model.answers(low + (high - low) * x.to(self.images.dtype)).float()
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


def _authors() -> ModuleType:
    """The authors' code; raises `InputError` where it is not installed."""
    with extra("attacks"):
        return import_module("robustdeq.attacks.authors")


NORMS = ("Linf", "L2", "L1")
"""The norms that the library knows."""


@dataclass(frozen=True)
class Component(BallAttack):
    """One attack of the ensemble; it searches in single precision whatever that of the model.

    Its label is what its authors call it. An image that is misclassified as it is, or that withstands the attack, is
    returned as it is. `targets`, `steps`, `queries` and `restarts` of a subclass are counts, 1 or more.

    Args:
        eps: the radius of the ball, in the units of pixels.
        norm: `"Linf"`, `"L2"` or `"L1"`, which are those that the library knows.
        seed: of everything random in it.
        bounds: the least and the greatest pixel.

    Raises:
        InputError: a setting is out of its range, or the authors' code is not installed.
    """

    eps: float = 8 / 255
    norm: str | Norm = "Linf"
    seed: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)

    least_classes: ClassVar[int] = 2

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _authors()
        check_seed(self.seed)
        check_counts(**{name: getattr(self, name, 1) for name in ("targets", "steps", "queries", "restarts")})
        if self.norm not in NORMS:
            raise InputError(
                f"{self.label} runs in the norms {', '.join(NORMS)} and norm is {self.norm!r}; use PGD, which runs in "
                "every norm."
            )

    def shared_settings(self, span: float) -> dict[str, Any]:
        """Threat model, seed and restarts under their names in the authors' code, for pixels scaled to [0, 1].

        Args:
            span: by what they were divided.
        """
        restarts = getattr(self, "restarts", 1)
        return {"norm": str(self.norm), "eps": self.eps / span, "seed": self.seed, "n_restarts": restarts}

    @abstractmethod
    def build(self, model: nn.Module, classes: int, span: float) -> Any:
        """The authors' attack on a model, of so many classes, of pixels in [0, 1] that were divided by a span."""

    @override
    def check(self, x: Pixels, classes: int) -> None:
        if classes < self.least_classes:
            raise InputError(
                f"{self.label} needs {self.least_classes} classes and the model has {classes}; leave it out, as in "
                "AutoAttack(version='custom', attacks=(...))."
            )

    @override
    @torch.no_grad()
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        standing, classes = stand(judge, x, y)
        self.check(x, classes)
        adversaries = x.clone()
        if standing.any():
            x, y = x[standing], y[standing]
            low, high = box = self.threat.box(x)
            scaled = (x - low) / (high - low)
            seen = _Seen(Judged(surrogate, judge), box, scaled, y, classes)
            with frozen(seen), _library():
                found = self.build(seen, classes, high - low).perturb(scaled.float().contiguous(), y)
            adversaries[standing] = self.threat.project(low + (high - low) * found.to(x.dtype), x)
        return adversaries


@torch.no_grad()
def stand(judge: nn.Module, x: Pixels, y: Labels) -> tuple[Mask, int]:
    """Which images a model classifies correctly, and how many classes it has."""
    logits = judge(x)
    return checked(correct, y)(logits), logits.shape[1]


class APGDLoss(StrEnum):
    """What APGD climbs: cross-entropy, or the difference of logits ratio, which no scale of the logits changes."""

    CE = "ce"
    DLR = "dlr"


@dataclass(frozen=True)
class _AutoPGD(Component):
    """What `APGD` and `TargetedAPGD` share: their settings, which are documented there."""

    steps: int = 100
    restarts: int = 1
    widened: bool = False

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.widened and (self.norm != "L1" or self.steps < 2):
            raise InputError(
                f"widened needs the norm L1 and 2 steps, and the attack has {self.norm} and {self.steps}; leave it out."
            )

    @property
    def run_gradients(self) -> int:
        """How many gradients a run takes: one per step, and one where it starts in each ball that it runs in."""
        return self.steps + (3 if self.widened else 1)

    @override
    def shared_settings(self, span: float) -> dict[str, Any]:
        return super().shared_settings(span) | {"n_iter": self.steps, "use_largereps": self.widened, "logger": _SILENT}


@dataclass(frozen=True)
class APGD(_AutoPGD):
    """Auto-PGD: projected gradient ascent with momentum that halves its step size where progress stalls.

    Settings as for `Component`.

    Args:
        loss: `"ce"` (cross-entropy) or `"dlr"` (difference of logits ratio; 3 classes or more).
        steps: how many steps a run takes.
        restarts: how many runs, each from a random point, on the images that the ones before did not fool.
        widened: start in balls of 3 ε and 2 ε, three tenths of the steps in each (L1 only; Croce and Hein, "Mind the
            box", ICML 2021).
    """

    loss: str = "ce"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, APGDLoss)

    @property
    @override
    def label(self) -> str:
        return f"apgd-{self.loss}"

    @property
    @override
    def cost(self) -> Cost:
        return Cost(self.restarts * self.run_gradients, 2)

    @override
    def check(self, x: Pixels, classes: int) -> None:
        super().check(x, classes)
        if self.loss == APGDLoss.DLR and classes < 3:
            raise InputError(f"the loss 'dlr' needs 3 classes and the model has {classes}; choose APGD(loss='ce').")

    @override
    def build(self, model: nn.Module, classes: int, span: float) -> Any:
        return _authors().SharedAPGDAttack(model, loss=str(self.loss), **self.shared_settings(span))


@dataclass(frozen=True)
class TargetedAPGD(_AutoPGD):
    """Auto-PGD on the targeted difference of logits ratio, one class after another, the likeliest wrong one first.

    Settings as for `APGD`, `restarts` for each class, and it needs a model with 4 classes or more.

    Args:
        targets: how many classes are tried, at most all that are wrong.
    """

    targets: int = 9

    least_classes: ClassVar[int] = 4
    title: ClassVar[str] = "apgd-t"

    @property
    @override
    def cost(self) -> Cost:
        runs = self.targets * self.restarts
        return Cost(runs * self.run_gradients, runs + 2)

    @override
    def build(self, model: nn.Module, classes: int, span: float) -> Any:
        targets = min(self.targets, classes - 1)
        return _authors().SharedTargetedAPGDAttack(model, n_target_classes=targets, **self.shared_settings(span))


@dataclass(frozen=True)
class FAB(Component):
    """Fast adaptive boundary attack (Croce and Hein, ICML 2020): the nearest point across the linearised boundary.

    Settings as for `Component`. Every step takes the gradient of every logit.

    Args:
        steps: how many steps a run takes.
        restarts: how many runs; the first starts from the image, the others from random points.
    """

    steps: int = 100
    restarts: int = 1

    title: ClassVar[str] = "fab"

    @property
    @override
    def cost(self) -> Cost:
        """One step counts as one gradient, though it takes one backward pass per class."""
        return Cost(self.restarts * self.steps, self.restarts * (self.steps + 2) + 2)

    @override
    def build(self, model: nn.Module, classes: int, span: float) -> Any:
        return _authors().FABAttack_PT(model, n_iter=self.steps, **self.shared_settings(span))


@dataclass(frozen=True)
class TargetedFAB(FAB):
    """FAB towards one class after another, the likeliest wrong one first: one gradient per step.

    Settings as for `FAB`, `steps` and `restarts` for each class.

    Args:
        targets: how many classes are tried, at most all that are wrong.
    """

    targets: int = 9

    title: ClassVar[str] = "fab-t"

    @property
    @override
    def cost(self) -> Cost:
        runs = self.targets * self.restarts
        return Cost(runs * self.steps, runs * (self.steps + 3) + 2)

    @override
    def build(self, model: nn.Module, classes: int, span: float) -> Any:
        attack = super().build(model, classes, span)
        attack.targeted, attack.n_target_classes = True, min(self.targets, classes - 1)
        return attack


@dataclass(frozen=True)
class Square(Component):
    """The Square attack (Andriushchenko et al., ECCV 2020): random squares, kept where they help; no gradient at all.

    Settings as for `Component`. It needs images (B, C, H, W).

    Args:
        queries: how often each image is tried, per run.
        restarts: how many runs.
    """

    queries: int = 5000
    restarts: int = 1

    title: ClassVar[str] = "square"

    @property
    @override
    def cost(self) -> Cost:
        return Cost(0, self.restarts * (self.queries + 2) + 2)

    @property
    @override
    def climbs(self) -> str:
        return "nothing: random search"

    @override
    def check(self, x: Pixels, classes: int) -> None:
        super().check(x, classes)
        if x.ndim != 4:
            raise InputError(
                f"x has shape {tuple(x.shape)} and square needs images (B, C, H, W); leave it out, as in "
                "AutoAttack(version='custom', attacks=(...))."
            )
        if self.norm != "Linf":
            height, width = x.shape[2:]
            tile = height // 5
            margin = (height - 5 * tile) // 2
            if tile == 0 or (tile > 1 and any(margin + side // tile * tile > side for side in (height, width))):
                raise InputError(
                    f"square cannot tile images of {height} × {width} pixels for {self.norm}; pad them, or leave it "
                    "out, as in AutoAttack(version='custom', attacks=(...))."
                )

    @override
    def build(self, model: nn.Module, classes: int, span: float) -> Any:
        return _authors().SharedSquareAttack(
            model, n_queries=self.queries, resc_schedule=False, **self.shared_settings(span)
        )
