"""Projected gradient descent (Madry et al., ICLR 2018) and its one-step form, FGSM (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from robustdeq.base.errors import InputError
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.gradients.base import Surrogate
from robustdeq.deq.model import Loss, total_loss

LabelledLoss = Callable[[Tensor, Tensor], Tensor]


def correct(logits: Float[Tensor, "batch classes"], y: Integer[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
    """Whether each sample is classified as y; logits that are not finite never are."""
    return (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)


def checked(loss: LabelledLoss, y: Integer[Tensor, "batch"]) -> Loss:
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


def finite_or_zero(gradient: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch *image"]:
    """The gradient of each sample where it is finite; a sample whose gradient is not has none to offer: zero."""
    finite = gradient.flatten(1).isfinite().all(dim=1)
    return torch.where(finite.view(-1, *[1] * (gradient.ndim - 1)), gradient, 0)


def warn_of_training(*models: nn.Module) -> None:
    """Warn the caller of an attack where a model under attack is in training mode."""
    if any(getattr(model, "deq", model).training for model in models):
        warnings.warn("the model under attack is in training mode; call .eval() on it first.", stacklevel=3)


def input_gradient(model: nn.Module, x: Float[Tensor, "batch *image"], loss: Loss) -> Float[Tensor, "batch *image"]:
    """The gradient of a per-sample loss of a model's logits with respect to x, finite everywhere.

    A `Surrogate` supplies its own; any other module is differentiated by autograd.
    """
    if isinstance(model, Surrogate):
        gradient = model.input_gradient(x, loss)
    else:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            gradient = torch.autograd.grad(total_loss(loss, model(x)), x)[0]
    return finite_or_zero(gradient)


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on a loss, last iterate; `start`, `loss` and `fooled` can be overridden.

    Args:
        eps: the radius of the ball, in the units of pixels.
        step_size: how far each step goes, in the same norm.
        steps: how many steps.
        norm: `"Linf"` or `"L2"`.
        random_start: start from a random point of the ball instead of the image.
        restarts: how many runs; a later one replaces the adversary of a sample that none has fooled yet.
        seed: of the random starts.
        targeted: y are classes to be reached, not to be left.
        bounds: the least and the greatest pixel.

    Raises:
        InputError: a setting is out of its range.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    norm: str = "Linf"
    random_start: bool = True
    restarts: int = 1
    seed: int = 0
    targeted: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        self.threat  # noqa: B018
        if not self.step_size > 0:
            raise InputError(f"step_size is {self.step_size}; give a positive number.")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; PGD makes at least 1.")
        if self.restarts < 1:
            raise InputError(f"restarts is {self.restarts}; PGD runs at least once.")

    @property
    def threat(self) -> ThreatModel:
        """The ball it stays in."""
        return ThreatModel(self.eps, self.norm, self.bounds)

    @property
    def gradients(self) -> int:
        """How many input gradients it takes per image, at most."""
        return self.steps * self.restarts

    @property
    def queries(self) -> int:
        """How many forward passes it takes per image beyond those, at most."""
        return self.restarts - 1

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
            x: the images.
            y: their labels, or, targeted, the classes to reach.
            target: the model that decides whether a sample is fooled (a `Defended`, say); None for the surrogate. Only
                several restarts ask.

        Returns:
            The adversaries, within the threat model.

        Raises:
            InputError: x or y cannot be used.
        """
        self.threat.check(x, y)
        y = y.long()
        judge = surrogate if target is None else target
        warn_of_training(surrogate, judge)
        generator = torch.Generator(device=x.device).manual_seed(self.seed)
        adversaries = x.detach().clone()
        standing = torch.arange(len(x), device=x.device)
        for restart in range(self.restarts):
            start = self.start(x, generator)[standing]
            adversaries[standing] = self.run(surrogate, x[standing], start, checked(self.loss, y[standing]))
            if restart + 1 < self.restarts:
                standing = standing[~self.fooled(judge, adversaries[standing], y[standing])]
                if len(standing) == 0:
                    break
        return adversaries

    def start(self, x: Float[Tensor, "batch *image"], generator: torch.Generator) -> Float[Tensor, "batch *image"]:
        """Where a run starts."""
        return self.threat.random_start(x, generator) if self.random_start else x.detach().clone()

    def loss(self, logits: Float[Tensor, "batch classes"], y: Integer[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """The loss of each sample, which is ascended, or descended when targeted: cross-entropy, in nats."""
        return nn.functional.cross_entropy(logits, y, reduction="none")

    def run(
        self,
        surrogate: nn.Module,
        x: Float[Tensor, "batch *image"],
        start: Float[Tensor, "batch *image"],
        loss: Loss,
    ) -> Float[Tensor, "batch *image"]:
        """Climb a per-sample loss of the logits from `start`, never waiting for the device; return the last iterate."""
        ascent = -self.step_size if self.targeted else self.step_size
        adversaries = start
        for _ in range(self.steps):
            gradient = input_gradient(surrogate, adversaries, loss)
            adversaries = self.threat.project(adversaries + ascent * self.threat.steepest(gradient), x)
        return adversaries

    @torch.no_grad()
    def fooled(
        self, judge: nn.Module, x: Float[Tensor, "batch *image"], y: Integer[Tensor, "batch"]
    ) -> Bool[Tensor, "batch"]:
        """Whether each adversary does what it is for."""
        hit = correct(judge(x), y)
        return hit if self.targeted else ~hit


@dataclass(frozen=True)
class FGSM:
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
    norm: str = "Linf"
    random_start: bool = False
    seed: int = 0
    targeted: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        self.attack  # noqa: B018

    @property
    def attack(self) -> PGD:
        """The same, as projected gradient ascent with one step."""
        return PGD(
            eps=self.eps,
            step_size=(self.eps or 1.0) if self.step_size is None else self.step_size,
            steps=1,
            norm=self.norm,
            random_start=self.random_start,
            seed=self.seed,
            targeted=self.targeted,
            bounds=self.bounds,
        )

    @property
    def threat(self) -> ThreatModel:
        """The ball it stays in."""
        return self.attack.threat

    @property
    def gradients(self) -> int:
        """How many input gradients it takes per image."""
        return self.attack.gradients

    @property
    def queries(self) -> int:
        """How many forward passes it takes per image beyond those."""
        return self.attack.queries

    def __call__(
        self,
        surrogate: nn.Module,
        x: Float[Tensor, "batch *image"],
        y: Integer[Tensor, "batch"],
        target: nn.Module | None = None,
    ) -> Float[Tensor, "batch *image"]:
        """Make adversaries; see `PGD.__call__`."""
        return self.attack(surrogate, x, y, target)
