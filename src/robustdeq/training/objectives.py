"""What training minimises: the loss on clean images, or on adversaries of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.errors import InputError
from robustdeq.gradients import Gradient, Phantom, Surrogate
from robustdeq.models import DEQ
from robustdeq.models.deq import evaluating


class Objective(ABC):
    """Which images the loss is taken on."""

    @abstractmethod
    def images(
        self, deq: DEQ, x: Float[Tensor, "batch *image"], y: Int[Tensor, "batch"], step: int, progress: float
    ) -> Float[Tensor, "batch *image"]:
        """The images to train on.

        Args:
            deq: the model as it is.
            x: clean images.
            y: their labels.
            step: the training step, from 0; seeds what is random.
            progress: the share of the training that is done.
        """


@dataclass(frozen=True)
class Standard(Objective):
    """Clean images."""

    @override
    def images(self, deq: DEQ, x: Tensor, y: Tensor, step: int, progress: float) -> Tensor:
        return x


@dataclass(frozen=True)
class AdversarialTraining(Objective):
    """PGD-AT (Madry et al., ICLR 2018): the last iterate of PGD, made with the model in eval mode.

    Args:
        attack: PGD with the full radius.
        gradient: what it climbs; of the final state.
        warmup: the share of the training over which the radius grows linearly from 0 to its full value.

    Raises:
        InputError: the warm-up is no share.
    """

    attack: PGD = field(default_factory=PGD)
    gradient: Gradient = field(default_factory=Phantom)
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is {self.warmup}; give a share of the training, in [0, 1].")

    @override
    def images(self, deq: DEQ, x: Tensor, y: Tensor, step: int, progress: float) -> Tensor:
        scale = 1.0 if progress >= self.warmup else max(progress / self.warmup, 1e-3)
        attack = replace(
            self.attack,
            eps=scale * self.attack.eps,
            step_size=scale * self.attack.step_size,
            seed=self.attack.seed + step,
        )
        with evaluating(deq):
            return attack(Surrogate(deq, self.gradient), x, y)
