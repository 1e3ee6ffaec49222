"""What training minimises: a loss on clean images, on adversaries of them, or on both."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError, require
from robustdeq.base.shapes import Labels, Logits, PerSample, Pixels
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.gradients import UnrolledIntermediate
from robustdeq.deq.model import Loss, StateGradient
from robustdeq.deq.modes import evaluating
from robustdeq.deq.solve import Solution
from robustdeq.training.inner import NFGSM, WarmStarted
from robustdeq.training.learner import Adversaries, learner


@dataclass(frozen=True)
class Moment:
    """Where the training stands.

    Args:
        step: the optimiser's steps so far.
        progress: the share of the training that is done, in [0, 1].
        generator: of all that is random in this step.
    """

    step: int
    progress: float
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class Reading:
    """The loss of one batch, with the logits and the solve that it was computed from.

    Args:
        loss: the mean over the batch, in nats.
        logits: of the images that were trained on.
        solution: their solve; None where the model has no solver.
    """

    loss: Float[Tensor, ""]
    logits: Logits
    solution: Solution | None


class Objective:
    """Which images a step trains on, and the loss there.

    Attributes:
        aim: the accuracy on the development split that says which weights are best: `"robust"` or `"clean"`.
        warm_steps: solver steps from the fixed point of an earlier solve; None where every solve starts anew.
    """

    aim: ClassVar[str] = "robust"
    warm_steps: int | None = None

    def adversaries(self, model: nn.Module, x: Pixels, y: Labels, moment: Moment) -> Adversaries:
        """The images to train on: by default the clean ones.

        Args:
            model: the model as it is.
            x: clean images.
            y: their labels.
            moment: where the training stands.
        """
        return Adversaries(x)

    def read(self, model: nn.Module, x: Pixels, y: Labels, found: Adversaries, moment: Moment) -> Reading:
        """The loss to minimise: by default the cross-entropy of the images found.

        Args:
            model: the model in training mode.
            x: clean images.
            y: their labels.
            found: what `adversaries` gave.
            moment: where the training stands.
        """
        logits, solution = learner(model).respond(found)
        return Reading(cross_entropy(logits, y), logits, solution)

    @property
    def threat(self) -> ThreatModel | None:
        """The threat model that it trains against; None where it attacks nothing."""
        return None

    def attacking(self, attack: PGD, warmup: float) -> Objective:
        """The objective with another attack and warm-up of its radius; itself where it attacks nothing."""
        return self

    def strengthened(self) -> Objective:
        """The objective with a stronger attack, for when this one is overfitted to; itself where it attacks nothing."""
        return self


@dataclass(frozen=True)
class Standard(Objective):
    """Clean images; the best weights are those of highest clean accuracy."""

    aim: ClassVar[str] = "clean"


@dataclass(frozen=True)
class NoiseAugmentation(Objective):
    """Noisy images, for randomized smoothing (Cohen, Rosenfeld and Kolter, ICML 2019); the best weights as `Standard`.

    Args:
        sigma: σ, the standard deviation of Gaussian noise that is fresh in every step, in the units of pixels.

    Raises:
        InputError: σ is not positive.
    """

    aim: ClassVar[str] = "clean"

    sigma: float = 0.25

    def __post_init__(self) -> None:
        require(self.sigma > 0, f"sigma is {self.sigma}; give a positive standard deviation.")

    @override
    def adversaries(self, model: nn.Module, x: Pixels, y: Labels, moment: Moment) -> Adversaries:
        noise = torch.randn(x.shape, generator=moment.generator, dtype=x.dtype, device=x.device)
        return Adversaries(x + self.sigma * noise)


@dataclass(frozen=True)
class AdversarialTraining(Objective):
    """PGD-AT (Madry et al., ICLR 2018): the last iterate of PGD, made with the model in eval mode.

    One step of 1.25 ε from a random start is fast adversarial training (Wong, Rice and Kolter, ICLR 2020). With the
    gradient through the solver, for the adversaries and for the weights, forward and backward passes agree:
    solver-aligned adversarial training.

    Args:
        attack: PGD with the full radius.
        gradient: what it climbs; None for the gradient that the weights are trained with (`own_gradient`). An explicit
            network is differentiated by autograd.
        warmup: the share of the training over which the radius grows linearly from 0 to its full value.
        warm_steps: solve for every iterate but the first, and for the loss, from the fixed point of the iterate before
            with so many solver steps; None to solve anew.

    Raises:
        InputError: a setting is out of its range.
    """

    attack: PGD = field(default_factory=PGD)
    gradient: StateGradient | None = None
    warmup: float = 0.0
    warm_steps: int | None = None

    def __post_init__(self) -> None:
        require(0 <= self.warmup <= 1, f"warmup is {self.warmup}; give a share of the training, in [0, 1].")
        if self.warm_steps is not None and self.warm_steps < 1:
            raise InputError(f"warm_steps is {self.warm_steps}; give 1 or more, or None to solve anew.")
        if self.attack.restarts != 1:
            raise InputError(f"restarts is {self.attack.restarts}; the attack of a training step runs once.")
        if self.attack.targeted:
            raise InputError("the attack is targeted; in training it leaves the labels it is given: drop targeted.")
        own = type(self.attack)
        if (own.search, own.climb) != (PGD.search, PGD.climb):
            raise InputError(
                f"{own.__name__} makes its runs in a way of its own, and a training step makes a single one by `run`; "
                "give PGD, or an attack that overrides that."
            )

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        return self.climb(model, x, partial(self.attack.loss, y=y), moment)

    def climb(self, model: nn.Module, x: Pixels, loss: Loss, moment: Moment) -> Adversaries:
        """The last iterate of the attack on a per-sample loss of the logits."""
        scale = 1.0 if moment.progress >= self.warmup else max(moment.progress / self.warmup, 1e-3)
        attack = self.scaled(scale)
        with evaluating(model):
            surrogate = learner(model).surrogate(self.gradient, self.warm_steps)
            images = attack.run(surrogate, x, attack.start(x, moment.generator), loss)
        if isinstance(surrogate, WarmStarted):
            return Adversaries(images, surrogate.state, self.warm_steps)
        return Adversaries(images)

    def scaled(self, scale: float) -> PGD:
        """The attack with its radius and step scaled."""
        return replace(self.attack, eps=scale * self.attack.eps, step_size=scale * self.attack.step_size)

    @property
    @override
    def threat(self) -> ThreatModel:
        return self.attack.threat

    @override
    def attacking(self, attack: PGD, warmup: float) -> AdversarialTraining:
        return replace(self, attack=attack, warmup=warmup)

    @override
    def strengthened(self) -> AdversarialTraining:
        attack = self.attack.projected if isinstance(self.attack, NFGSM) else self.attack
        steps = attack.steps + 1
        return replace(self, attack=replace(attack, steps=steps, step_size=2 * attack.eps / steps or attack.step_size))


@dataclass(frozen=True)
class NoisyFGSM(AdversarialTraining):
    """N-FGSM (de Jorge et al., NeurIPS 2022): one step of ε from noise beyond the ball, unprojected.

    It is `AdversarialTraining` with the attack `NFGSM`, for recipes and the command line, whose attacks are plain PGD.
    Of the attack, radius and bounds matter. The other settings are those of `AdversarialTraining`.

    Args:
        noise: the radius of the noise, in multiples of ε.

    Raises:
        InputError: a setting is out of its range.
    """

    noise: float = 2.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.scaled(1.0)

    @override
    def scaled(self, scale: float) -> PGD:
        eps = scale * self.attack.eps
        return NFGSM(eps, eps or 1.0, norm=self.attack.norm, bounds=self.attack.bounds, noise=self.noise)

    @override
    def strengthened(self) -> AdversarialTraining:
        single = replace(self.attack, steps=1)
        return AdversarialTraining(single, self.gradient, self.warmup, self.warm_steps).strengthened()


@dataclass(frozen=True)
class TRADES(AdversarialTraining):
    """TRADES (Zhang et al., ICML 2019): cross-entropy of clean images + β KL(clean ‖ adversarial).

    The attack climbs the same divergence. It is least at the image itself, where its gradient vanishes and no attack
    gets away, so that the attack must start at random. The other settings are those of `AdversarialTraining`.

    Args:
        beta: β.

    Raises:
        InputError: a setting is out of its range, or the attack starts at the image.
    """

    beta: float = 6.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta >= 0, f"beta is {self.beta}; give 0 or a positive number.")
        if not self.attack.random_start:
            raise InputError("the attack starts at the image, where the divergence is flat; set random_start.")

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        with evaluating(model), torch.no_grad():
            clean = model(x).log_softmax(dim=1)
        return self.climb(model, x, partial(divergence, reference=clean), moment)

    @override
    def read(self, model: nn.Module, x: Tensor, y: Tensor, found: Adversaries, moment: Moment) -> Reading:
        clean, _ = learner(model).respond(Adversaries(x))
        logits, solution = learner(model).respond(found)
        robust = divergence(logits, clean.log_softmax(dim=1)).mean()
        return Reading(cross_entropy(clean, y) + self.beta * robust, logits, solution)


def divergence(logits: Logits, reference: Logits) -> PerSample:
    """KL(reference ‖ softmax(logits)) of each sample, in nats; `reference` are log-probabilities."""
    return kl_div(logits.log_softmax(dim=1), reference, reduction="none", log_target=True).sum(dim=1)


@dataclass(frozen=True)
class RandomState(AdversarialTraining):
    """The adversarial loss at a random state of the trajectory (Yang, Li and Pang, ICML 2023, Section 3.3).

    Each step draws one n from 1 … N + 1 and reads the loss at z_n, unrolled from there by k damped steps (Eq. 13), so
    that every state learns to resist; at the final state z_{N+1} it is the loss of the model itself. The other settings
    are those of `AdversarialTraining`.

    Args:
        steps: k.
        damping: λ.

    Raises:
        InputError: a setting is out of its range.
    """

    steps: int = 5
    damping: float = 0.5

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        UnrolledIntermediate(1, self.steps, self.damping)

    @override
    def read(self, model: nn.Module, x: Tensor, y: Tensor, found: Adversaries, moment: Moment) -> Reading:
        deq = learner(model).deq
        n = random.Random(f"state {moment.generator.initial_seed()}").randint(1, deq.last_state)
        if n == deq.last_state:
            return super().read(model, x, y, found, moment)
        solution = deq.solution(found.images, until=n)
        logits = deq.classify(solution.cell, UnrolledIntermediate(n, self.steps, self.damping).read(solution))
        return Reading(cross_entropy(logits, y), logits, solution)
