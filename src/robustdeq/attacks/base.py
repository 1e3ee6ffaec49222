"""What an attack is: settings that make adversaries within a threat model, at a known cost."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report, silent
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.defenses import averaged
from robustdeq.deq.model import DEQ


@dataclass(frozen=True)
class Cost:
    """What an attack costs per image, at most.

    Args:
        gradients: how many input gradients of the surrogate it takes.
        queries: how many forward passes it takes beyond those.
        evaluations: how often it evaluates f itself, beyond both; a vector-Jacobian product counts as two.
    """

    gradients: int
    queries: int = 0
    evaluations: int = 0

    def price(self, gradient: float, forward: float) -> float:
        """The whole in evaluations of f.

        Args:
            gradient: what one input gradient costs, in evaluations of f.
            forward: what one forward pass costs, in evaluations of f.
        """
        return self.gradients * gradient + self.queries * forward + self.evaluations

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.gradients + other.gradients, self.queries + other.queries, self.evaluations + other.evaluations
        )


@dataclass(frozen=True)
class Attack(metaclass=ABCMeta):
    """Settings that make adversaries.

    Subclass it as a frozen dataclass and implement `search`. It is a dataclass without fields itself, so that command
    lines list the settings of each attack.
    """

    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self.threat  # noqa: B018

    @property
    @abstractmethod
    def threat(self) -> ThreatModel:
        """The perturbations that it may use."""

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """What it costs per image, at most."""

    @property
    def label(self) -> str:
        """A few words for tables, such as "PGD, 10 steps"; its title, or else the name of its class."""
        return self.title or type(self).__name__

    @property
    def climbs(self) -> str | None:
        """What it follows, in words for tables, where that isn't the gradient of the surrogate; None where it is."""
        return None

    def check(self, x: Pixels, classes: int) -> None:
        """Raise `InputError` where it cannot attack such images, or a model of so many classes."""

    def __call__(
        self, surrogate: nn.Module, x: Pixels, y: Labels, target: nn.Module | None = None, report: Report | None = None
    ) -> Pixels:
        """Make adversaries.

        Args:
            surrogate: the model whose gradient is climbed: a `Surrogate`, or any module x → logits.
            x: the images, pixels within the bounds.
            y: their labels, or, targeted, the classes to reach.
            target: the model that decides what has succeeded (a `Defended`, say); None for the surrogate. Where chance
                plays a part, the mean of several of its draws decides.
            report: called with the share of the work that is done and what comes next.

        Returns:
            The adversaries, within the threat model.

        Raises:
            InputError: x or y cannot be used, or the attack does not apply to them or to the models.
        """
        self.threat.check(x, y)
        judge = surrogate if target is None else target
        if any(getattr(model, "deq", model).training for model in (surrogate, judge)):
            warnings.warn("the model under attack is in training mode; call .eval() on it first.", stacklevel=2)
        return self.search(surrogate, averaged(judge), x.detach(), y.long(), report or silent)

    @abstractmethod
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        """Make adversaries of images and labels that have been checked; arguments as for a call.

        `judge` is the target, or the surrogate where there is none, `averaged`. What it returns is a new tensor.
        """


@dataclass(frozen=True)
class BallAttack(Attack):
    """An attack whose fields `eps`, `norm` and `bounds` are its threat model."""

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", self.threat.norm)

    @property
    @override
    def threat(self) -> ThreatModel:
        settings: Any = self
        return ThreatModel(settings.eps, settings.norm, settings.bounds)


def deq_behind(surrogate: nn.Module) -> DEQ:
    """The DEQ whose solve an attack iterates: the surrogate, or the one behind a `Surrogate` or `Defended`.

    Raises:
        InputError: there is none.
    """
    deq = getattr(surrogate, "deq", surrogate)
    if not isinstance(deq, DEQ):
        kind = type(surrogate).__name__
        raise InputError(f"the surrogate is a {kind}, which solves nothing; give a DEQ, or a Surrogate of one.")
    return deq
