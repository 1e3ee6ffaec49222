"""Projected gradient descent (Madry et al., ICLR 2018) and its one-step form, FGSM (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from robustdeq.attacks.ascent import Ascent, Bound
from robustdeq.attacks.base import BallAttack, Cost
from robustdeq.attacks.losses import LabelledLoss, correct, named, register
from robustdeq.base.derivative import derivative
from robustdeq.base.errors import InputError, check_seed, require
from robustdeq.base.norms import Norm
from robustdeq.base.progress import Report
from robustdeq.base.shapes import Labels, Logits, Mask, PerSample, Pixels, per_sample
from robustdeq.deq.model import Loss, total_loss


def finite_or_zero(gradient: Pixels) -> Pixels:
    """The gradient of each sample, set to zero where any of its entries is not finite."""
    finite = gradient.flatten(1).isfinite().all(dim=1)
    return torch.where(per_sample(finite, gradient), gradient, 0)


def input_gradient(model: nn.Module, x: Pixels, loss: Loss) -> Pixels:
    """The gradient of a per-sample loss of a model's logits with respect to x, finite everywhere.

    A model that has a method `input_gradient(x, loss)`, as a `Surrogate` has, computes its own; any other is
    differentiated by autograd.
    """
    own = getattr(model, "input_gradient", None)
    if own is not None:
        return finite_or_zero(own(x, loss))
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return finite_or_zero(derivative(total_loss(loss, model(x)), x))


_METHODS = ("search", "climb", "start", "loss", "step", "run", "fooled")


@dataclass(frozen=True)
class PGD(BallAttack):
    """Projected gradient ascent on a loss, last iterate.

    `start`, `loss`, `step`, `run`, `climb` and `fooled` can be overridden; what makes another kind of PGD of it refuses
    to lose that (`settings_for`). The adversary of an image depends on that image alone, and not on the others of its
    batch: each draws its own random starts.

    Args:
        eps: the radius of the ball, in the units of pixels.
        step_size: how far each step goes, in the same norm.
        steps: how many steps.
        norm: `"Linf"`, `"L2"`, `"L1"` or any `Norm`.
        random_start: start from a random point of the ball instead of the image.
        restarts: how many runs; a later one replaces the adversary of a sample that none has fooled yet.
        seed: of the random starts.
        targeted: y are classes to be reached, not to be left.
        bounds: the least and the greatest pixel.
        criterion: the loss that is ascended, of logits (B, K) and y, for each sample: `"cross_entropy"`, `"margin"`,
            `"probability_margin"`, or any such function; it is held by its name.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    norm: str | Norm = "Linf"
    random_start: bool = True
    restarts: int = 1
    seed: int = 0
    targeted: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    criterion: str | LabelledLoss = "cross_entropy"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "criterion", register(self.criterion))
        require(0 < self.step_size < math.inf, f"step_size is {self.step_size}; give a positive number that is finite.")
        require(self.steps >= 1, f"steps is {self.steps}; PGD makes at least 1.")
        require(self.restarts >= 1, f"restarts is {self.restarts}; PGD runs at least once.")
        check_seed(self.seed)

    @property
    @override
    def cost(self) -> Cost:
        return Cost(self.steps * self.restarts, self.restarts - 1)

    @property
    @override
    def label(self) -> str:
        return f"PGD, {self.effort}"

    @property
    def effort(self) -> str:
        """How many steps it takes, in how many runs where there are several, and on what loss where it is another."""
        steps = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        steps = steps if self.restarts == 1 else f"{self.restarts} × {steps}"
        loss = str(self.criterion)
        return steps if loss == "cross_entropy" else f"{steps} on the {loss.replace('_', ' ')}"

    def settings_for(self, kind: type[PGD]) -> dict[str, Any]:
        """The settings of `PGD`, for another kind of it; raises `InputError` where that would lose an override."""
        own = type(self)
        lost = [name for name in _METHODS if getattr(own, name) not in (getattr(PGD, name), getattr(kind, name))]
        if lost:
            raise InputError(
                f"{own.__name__} overrides {', '.join(lost)}, which {kind.__name__} would lose here; give PGD instead, "
                f"and {own.__name__} as one of `attacks` beside."
            )
        return {setting.name: getattr(self, setting.name) for setting in fields(PGD)}

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        """Run; only several restarts need the judge."""
        ascent = Ascent.begin(surrogate, judge, x, y, self.seed)
        loss = ascent.labelled(self.loss)
        for run in range(self.restarts):
            if len(ascent.standing):
                report(run / self.restarts, f"run {run + 1} of {self.restarts}")
                self.climb(ascent, loss, run + 1 == self.restarts)
        return ascent.found

    def climb(self, ascent: Ascent, loss: Bound, last: bool) -> None:
        """One run from new starts, on what still stands; the judge is not asked after the `last` one.

        Args:
            ascent: the attack under way, which is taken on.
            loss: the loss of some of its samples.
            last: whether no run follows.
        """
        ascent.begin_at(self.start)
        chosen = ascent.standing
        ascent.found[chosen] = self.run(ascent.surrogate, ascent.x[chosen], ascent.found[chosen], loss(chosen))
        if not last:
            ascent.spare(self.fooled)

    def start(self, x: Pixels, generator: torch.Generator) -> Pixels:
        """Where a run starts.

        Args:
            x: images.
            generator: of the random numbers that they draw.
        """
        return self.threat.random_start(x, generator) if self.random_start else x.detach().clone()

    def loss(self, logits: Logits, y: Labels) -> PerSample:
        """The loss of each sample, which is ascended, or descended when targeted: the criterion, in its units."""
        return named(str(self.criterion))(logits, y)

    def step(self, x: Pixels, gradient: Pixels, center: Pixels) -> Pixels:
        """Where a step leads from x, given the gradient of the loss there and the images that the ball is around."""
        ascended = -gradient if self.targeted else gradient
        return self.threat.project(x + self.step_size * self.threat.steepest(ascended, x), center)

    def run(self, surrogate: nn.Module, x: Pixels, start: Pixels, loss: Loss) -> Pixels:
        """Climb a per-sample loss of the logits from `start`, never waiting for the device; return the last iterate."""
        adversaries = start
        for _ in range(self.steps):
            adversaries = self.step(adversaries, input_gradient(surrogate, adversaries, loss), x)
        return adversaries

    @torch.no_grad()
    def fooled(self, judge: nn.Module, x: Pixels, y: Labels) -> Mask:
        """Whether each adversary does what it is for."""
        return correct(judge(x), y) == self.targeted


@dataclass(frozen=True)
class FGSM(BallAttack):
    """The fast gradient sign method: one step to the edge of the ball.

    `norm`, `random_start`, `seed`, `targeted` and `bounds` are those of `PGD`.

    Args:
        eps: the radius of the ball.
        step_size: the length of the step; None for eps.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float = 8 / 255
    step_size: float | None = None
    norm: str | Norm = "Linf"
    random_start: bool = False
    seed: int = 0
    targeted: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.attack  # noqa: B018

    @property
    def attack(self) -> PGD:
        """The same, as projected gradient ascent with one step."""
        step_size = (self.eps or 1.0) if self.step_size is None else self.step_size
        return PGD(**vars(self) | {"step_size": step_size, "steps": 1})

    @property
    @override
    def cost(self) -> Cost:
        return self.attack.cost

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Pixels, y: Labels, report: Report) -> Pixels:
        return self.attack.search(surrogate, judge, x, y, report)
