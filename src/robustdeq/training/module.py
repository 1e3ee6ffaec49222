"""One training run as a Lightning module: the objective, the regulariser and the schedule of one model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.attacks.pgd import correct
from robustdeq.data import RandomCropFlip
from robustdeq.errors import InputError
from robustdeq.gradients import Gradient, Phantom, Surrogate
from robustdeq.models import DEQ
from robustdeq.models.deq import evaluating
from robustdeq.training.objectives import Objective
from robustdeq.training.regularizers import JacobianRegularization, jacobian_penalty


@dataclass(frozen=True)
class Optimization:
    """Adam with linear warm-up and a cosine schedule; the defaults are the published ones.

    Args:
        learning_rate: at its highest.
        final_learning_rate: at the end.
        warmup: the share of the steps over which it rises from 0.
        weight_decay: decoupled.
        clip_norm: the most that the norm of the gradient may be; None for no clipping.

    Raises:
        InputError: a setting is out of its range.
    """

    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; give a positive number.")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup is {self.warmup}; give a share of the steps, in [0, 1).")
        for name in ("final_learning_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; give 0 or a positive number.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm is {self.clip_norm}; give a positive number, or None for no clipping.")

    def factor(self, progress: float) -> float:
        """The learning rate at a share of the training, as a multiple of its highest."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-2)
        floor = self.final_learning_rate / self.learning_rate
        return floor + (1 - floor) * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True)
class Validation:
    """What is measured on the development split: clean accuracy, and accuracy under the ready-made attack.

    Args:
        attack: the attack.
        gradient: what it climbs.
    """

    attack: PGD = field(default_factory=PGD)
    gradient: Gradient = field(default_factory=Phantom)


class DEQTraining(lightning.LightningModule):
    """Trains a DEQ; the gradient of its weights is the model's own (`deq.gradient`).

    Args:
        deq: the model.
        objective: which images the loss is taken on.
        optimization: the optimiser and its schedule.
        regularization: the Jacobian penalty.
        augmentation: applied to each batch of clean images; None for none.
        validation: what is measured on the development split.
        seed: of the augmentation, the penalty's draws and the attacks.
    """

    def __init__(
        self,
        deq: DEQ,
        objective: Objective,
        optimization: Optimization,
        regularization: JacobianRegularization,
        augmentation: RandomCropFlip | None,
        validation: Validation,
        seed: int,
    ) -> None:
        super().__init__()
        self.deq = deq
        self.objective = objective
        self.optimization = optimization
        self.regularization = regularization
        self.augmentation = augmentation
        self.validation = validation
        self.seed = seed

    @property
    def progress(self) -> float:
        """The share of the training that is done."""
        return min(self.global_step / max(int(self.trainer.estimated_stepping_batches), 1), 1.0)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        x, y = batch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        if self.augmentation is not None:
            x = self.augmentation(x, generator)
        x = self.objective.images(self.deq, x, y, self.global_step, self.progress)
        jitter = self.regularization.draw(self.progress, generator)
        if jitter is None:
            logits = self.deq(x)
            loss = nn.functional.cross_entropy(logits, y)
        else:
            logits, penalty = self._penalised(x, jitter)
            self.log("jacobian", penalty, prog_bar=True)
            loss = nn.functional.cross_entropy(logits, y) + self.regularization.weight * penalty
        self.log("loss", loss, prog_bar=True)
        self.log("accuracy", correct(logits.detach(), y).float().mean(), prog_bar=True)
        return loss

    def _penalised(self, x: Float[Tensor, "batch *image"], jitter: int) -> tuple[Tensor, Tensor]:
        solver, gradient = self.deq.solver, self.deq.gradient
        self.deq.solver = replace(solver, max_steps=max(solver.max_steps + jitter, 1))
        try:
            solution = self.deq.solution(x, record=gradient is not None and gradient.records())
            return self.deq.logits(solution), jacobian_penalty(solution, self.regularization.probes)
        finally:
            self.deq.solver = solver

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        with evaluating(self.deq):
            adversaries = replace(self.validation.attack, seed=batch_idx)(
                Surrogate(self.deq, self.validation.gradient), x, y
            )
            with torch.no_grad():
                clean, robust = correct(self.deq(x), y), correct(self.deq(adversaries), y)
        self.log("clean", clean.float().mean(), prog_bar=True, batch_size=len(x))
        self.log("robust", robust.float().mean(), prog_bar=True, batch_size=len(x))

    @override
    def configure_optimizers(self) -> Any:
        settings = self.optimization
        optimizer = torch.optim.AdamW(self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.factor(min(step / total, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
