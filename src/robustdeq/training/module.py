"""One training run as a Lightning module: the objective, the regularisers and the schedules of one model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.deq.cell import Execution
from robustdeq.deq.gradients import Gradient
from robustdeq.deq.modes import evaluating
from robustdeq.training.learner import Learner, learner
from robustdeq.training.objectives import Moment, Objective, Reading, Standard
from robustdeq.training.regularizers import Regularization
from robustdeq.training.schedules import Optimization, SolverSteps


@dataclass(frozen=True)
class Validation:
    """What is measured on the development split: clean accuracy, and accuracy under the ready-made attack.

    Args:
        attack: the attack.
        gradient: what it climbs; None for the gradient that the weights are trained with (`own_gradient`). An explicit
            network is differentiated by autograd.
    """

    attack: PGD = field(default_factory=PGD)
    gradient: Gradient | None = None


@dataclass(frozen=True)
class Pretraining:
    """At first the cell is unrolled, z_{n+1} = f(z_n) from z_0, and autograd runs through all of it (Bai et al., 2020).

    Nothing is added to the loss meanwhile.

    Args:
        steps: how many steps of the optimiser; 0 for none.
        layers: how often f is applied.
        adversarial: train on the objective's images already; clean ones otherwise, as published.

    Raises:
        InputError: a setting is out of its range.
    """

    steps: int = 0
    layers: int = 8
    adversarial: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.layers < 1:
            raise InputError(
                f"pretraining has {self.steps} steps of {self.layers} layers; give 0 or more steps, 1 or more layers."
            )


class Training(lightning.LightningModule):
    """Trains a model; the gradient of a DEQ's weights is the model's own (`deq.gradient`).

    Args:
        model: a DEQ, or any network from images to logits.
        objective: which images the loss is taken on, and the loss.
        optimization: the optimiser and its schedule.
        regularization: what is added to the loss.
        solver_steps: of the phases of the training.
        pretraining: the phase in which the cell is unrolled.
        execution: how the model is evaluated in a training step. Where its Jacobian is penalised the loss is taken
            without compiling f, which the penalty differentiates twice.
        validation: what is measured on the development split.
        seed: of everything that is random.

    Raises:
        InputError: the cell is to be unrolled from z_0, and the solves to start elsewhere.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective | None = None,
        optimization: Optimization | None = None,
        regularization: Regularization | None = None,
        solver_steps: SolverSteps | None = None,
        pretraining: Pretraining | None = None,
        execution: Execution | None = None,
        validation: Validation | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective or Standard()
        self.optimization = optimization or Optimization()
        self.regularization = regularization or Regularization()
        self.solver_steps = solver_steps or SolverSteps()
        self.pretraining = pretraining or Pretraining()
        self.execution = execution or Execution()
        self.validation = validation or Validation()
        self.seed = seed
        if self.pretraining.steps and self.pretraining.adversarial and self.objective.warm_steps:
            raise InputError("adversarial pretraining unrolls the cell from z_0; set warm_steps to None.")
        self.suspects: Float[Tensor, "3"] | None = None

    @property
    def total_steps(self) -> int:
        """How many steps the optimiser will have made in all."""
        return max(int(self.trainer.estimated_stepping_batches), 1)

    @property
    def world_size(self) -> int:
        """How many processes share the batch."""
        return self.trainer.world_size

    @property
    def progress(self) -> float:
        """The share of the training that is done."""
        return min(self.global_step / self.total_steps, 1.0)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        x, y = batch
        seed = _seed(self.seed, self.global_step, batch_idx, self.global_rank)
        torch.manual_seed(_seed(seed, "layers"))
        moment = Moment(self.global_step, self.progress, torch.Generator(x.device).manual_seed(seed))
        whole = learner(self.model).executed(self.execution)
        unrolled = whole.unrolled(self.pretraining.layers) if moment.step < self.pretraining.steps else None
        if unrolled is None:
            reading, penalties = self._learn(whole.solved(**self.solver_steps.at(moment.progress)), x, y, moment)
        else:
            objective = self.objective if self.pretraining.adversarial else Standard()
            found = objective.adversaries(unrolled.model, x, y, moment)
            reading, penalties = objective.read(unrolled.model, x, y, found, moment), {}
        loss = torch.stack([reading.loss, *penalties.values()]).sum()
        self._watch(loss, reading)
        self.log_dict({"loss": loss.detach(), **{name: penalty.detach() for name, penalty in penalties.items()}})
        self.log("accuracy", correct(reading.logits.detach(), y).float().mean())
        return loss

    def _learn(self, pupil: Learner, x: Tensor, y: Tensor, moment: Moment) -> tuple[Reading, dict[str, Tensor]]:
        """The loss of a step, and the penalties that it adds."""
        found = self.objective.adversaries(pupil.model, x, y, moment)
        host = torch.Generator().manual_seed(_seed(self.seed, moment.step, "jacobian"))
        jitter = self.regularization.jacobian.draw(moment.progress, host)
        pupil = pupil if jitter is None else pupil.penalised(jitter)
        reading = self.objective.read(pupil.model, x, y, found, moment)
        return reading, pupil.penalties(self.regularization, jitter, reading.solution, y)

    def _watch(self, loss: Tensor, reading: Reading) -> None:
        """Add to what a guard looks at from time to time: losses that are not finite, diverged samples, all samples."""
        with torch.no_grad():
            diverged = loss.new_zeros(())
            if reading.solution is not None:
                trajectory = reading.solution.trajectory
                diverged = trajectory.diverged.sum().to(loss.dtype)
                final = trajectory.last_residual.norm(dim=1) / trajectory.best_value.norm(dim=1).clamp_min(1e-12)
                self.log("residual", final.mean())
                self.log("solver_steps", trajectory.steps.float().mean())
            count = loss.new_full((), len(reading.logits))
            added = torch.stack([(~loss.detach().isfinite()).to(loss.dtype), diverged, count])
            self.suspects = added if self.suspects is None else self.suspects + added

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        model, pupil = self.model, learner(self.model)
        weight = len(x) * self.world_size  # Lightning divides it by the number of processes, rounding down
        attack = replace(self.validation.attack, seed=self.validation.attack.seed + batch_idx)
        with evaluating(model):
            adversaries = attack(pupil.surrogate(self.validation.gradient), x, y)
            with torch.no_grad():
                measured = {"clean": correct(model(x), y), "robust": correct(model(adversaries), y)}
            measured |= pupil.convergence(x)
            if batch_idx == 0:
                draws = torch.Generator(x.device).manual_seed(self.seed)
                self.log_dict(pupil.spectrum(x, draws), batch_size=weight, sync_dist=True)
        means = {name: values.float().mean() for name, values in measured.items()}
        self.log_dict(means, prog_bar=True, batch_size=weight, sync_dist=True)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimization.optimizer(self.model)
        scheduler = self.optimization.scheduler(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _seed(*parts: object) -> int:
    """A seed that is a function of the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7])
