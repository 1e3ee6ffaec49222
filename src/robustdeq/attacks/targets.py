"""Attacks that make for one wrong class after another, and the order in which the classes are tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks.ascent import Ascent
from robustdeq.attacks.base import Attack, Cost
from robustdeq.attacks.losses import TargetedLoss, checked, named, register_targeted, targeted_margin, wrong_classes
from robustdeq.attacks.momentum import MomentumPGD
from robustdeq.attacks.pgd import PGD, input_gradient
from robustdeq.base.errors import check_counts, require
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Labels, Logits, Pixels
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.model import Loss

Targets = Int[Tensor, "batch wrong"]


class Order(ABC):
    """Which wrong classes are tried first; subclass it as a frozen dataclass."""

    @property
    def gradients(self) -> int:
        """How many input gradients it takes per image, at most."""
        return 0

    @abstractmethod
    def targets(self, surrogate: nn.Module, logits: Logits, x: Pixels, y: Labels, threat: ThreatModel) -> Targets:
        """The wrong classes of each image, in the order in which they are tried.

        Args:
            surrogate: what is climbed.
            logits: of the judge, of the images themselves.
            x: the images.
            y: their labels.
            threat: the perturbations that are allowed.
        """


@dataclass(frozen=True)
class ByLogits(Order):
    """Those first that the judge finds likeliest on the image itself."""

    @override
    def targets(self, surrogate: nn.Module, logits: Logits, x: Pixels, y: Labels, threat: ThreatModel) -> Targets:
        return wrong_classes(logits, y)


@dataclass(frozen=True)
class ByDistance(Order):
    """Those first whose boundary were nearest if the logits were linear: (z_y − z_t) / ‖∇(z_t − z_y)‖.

    The norm is the dual of that of the threat model, which is what a step of unit length gains.

    Args:
        candidates: how many classes are compared, the likeliest; the others follow in the order of their logits.

    Raises:
        InputError: `candidates` is not positive.

    Source: Melamed, Yehudai and Shamir, "MALT powers up adversarial attacks", NeurIPS 2024, in the Euclidean norm.
    """

    candidates: int = 9

    def __post_init__(self) -> None:
        check_counts(candidates=self.candidates)

    @property
    @override
    def gradients(self) -> int:
        return self.candidates

    @override
    def targets(self, surrogate: nn.Module, logits: Logits, x: Pixels, y: Labels, threat: ThreatModel) -> Targets:
        likely = wrong_classes(logits, y)
        compared, others = likely[:, : self.candidates], likely[:, self.candidates :]
        distances = []
        for target in compared.unbind(dim=1):
            gradient = input_gradient(surrogate, x, partial(targeted_margin, y=y, target=target))
            gain = (gradient * threat.measure.steepest(gradient)).flatten(1).sum(dim=1)
            distances.append(-targeted_margin(logits, y, target) / gain.clamp_min(torch.finfo(gain.dtype).tiny))
        order = torch.stack(distances, dim=1).argsort(dim=1, stable=True)
        return torch.cat([compared.gather(1, order), others], dim=1)


@dataclass(frozen=True)
class MultiTargeted(Attack):
    """An attack that makes for one wrong class after another, on what none before has reached.

    Args:
        attack: what climbs; its criterion is replaced, and each of its runs is made for every class and loss.
        targets: how many classes, at most all that are wrong.
        criterion: the loss that is ascended, of logits (B, K), y and the class to reach, for each sample:
            `"targeted_dlr"`, `"targeted_margin"`, `"targeted_probability_margin"`, or any such function; or several,
            each towards all classes before the next. They are held by their names.
        order: which classes come first.

    Raises:
        InputError: `targets` is not positive, there is no such loss, or the attack is targeted; or the model has too
            few classes.
    """

    attack: PGD = field(default_factory=MomentumPGD)
    targets: int = 9
    criterion: str | TargetedLoss | Sequence[str | TargetedLoss] = "targeted_dlr"
    order: Order = field(default_factory=ByLogits)

    @override
    def __post_init__(self) -> None:
        check_counts(targets=self.targets)
        given = self.criterion
        losses = (given,) if isinstance(given, str) or callable(given) else tuple(given)
        require(losses, "criterion is empty; give at least one loss.")
        object.__setattr__(self, "criterion", tuple(map(register_targeted, losses)))
        require(not self.attack.targeted, "the attack is targeted; MultiTargeted chooses the classes: leave it false.")

    @property
    @override
    def threat(self) -> ThreatModel:
        return self.attack.threat

    @property
    @override
    def cost(self) -> Cost:
        """That of the attack for every class and loss and of their order, and one forward pass for the logits."""
        runs = len(self._losses) * self.targets * self.attack.restarts
        return replace(self.attack, restarts=runs).cost + Cost(self.order.gradients, 1)

    @property
    @override
    def label(self) -> str:
        classes = f"{self.targets} class{'es' if self.targets > 1 else ''}"
        return f"{self.attack.label} on the {' and the '.join(map(_words, self._losses))}, {classes}"

    @property
    def _losses(self) -> tuple[str, ...]:
        return cast("tuple[str, ...]", self.criterion)

    @override
    def check(self, x: Pixels, classes: int) -> None:
        for loss in self._losses:
            least = 4 if loss == "targeted_dlr" else 2
            require(
                classes >= least,
                f"the {_words(loss)} needs {least} classes and the model has {classes}; climb another loss.",
            )

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        """Run, a class and loss each."""
        with torch.no_grad():
            logits = judge(x)
        self.check(x, logits.shape[1])
        ordered = checked(lambda logits, y: self.order.targets(surrogate, logits, x, y, self.threat), y)(logits)
        tried = ordered[:, : self.targets].unbind(dim=1)
        runs = [*product(map(named, self._losses), enumerate(tried, 1), range(self.attack.restarts))]
        ascent = Ascent.begin(surrogate, judge, x, y, self.attack.seed)
        for done, (loss, (number, target), _) in enumerate(runs):
            if len(ascent.standing):
                report(done / len(runs), f"class {number} of {len(tried)}")
                self.attack.climb(ascent, partial(_towards, loss, y, target), done + 1 == len(runs))
        return ascent.found


def _towards(loss: TargetedLoss, y: Labels, target: Labels, chosen: Tensor) -> Loss:
    left, reached = y[chosen], target[chosen]
    return lambda logits: loss(logits, left, reached)


def _words(loss: str) -> str:
    return loss.replace("_", " ")
