"""One training run as a Lightning module: the objective, the regularisers and the schedules of one model."""

from __future__ import annotations

import hashlib
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import Defended, as_deployed
from robustdeq.deq.modes import evaluating
from robustdeq.training.learner import Adversaries, Learner, learner
from robustdeq.training.objectives import Moment, Reading, Standard
from robustdeq.training.recipe import Recipe
from robustdeq.training.spectrum import lipschitz_constant, spectral_radius


class Training(lightning.LightningModule):
    """Trains a model; the gradient of a DEQ's weights is the model's own (`deq.gradient`).

    Args:
        model: a DEQ, or any network from images to logits.
        recipe: how it is trained; averaging, guards, data and checkpoints are the business of `fit`. Where the Jacobian
            is penalised the loss is taken without compiling f, which the penalty differentiates twice.

    Raises:
        InputError: the cell is to be unrolled from z_0, and the solves to start elsewhere.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.objective = recipe.objective
        if recipe.pretraining.steps and recipe.pretraining.adversarial and self.objective.warm_steps:
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
        seed = _seed(self.recipe.schedule.seed, self.global_step, batch_idx, self.global_rank)
        torch.manual_seed(_seed(seed, "layers"))
        moment = Moment(self.global_step, self.progress, torch.Generator(x.device).manual_seed(seed))
        pretraining = self.recipe.pretraining
        whole = learner(self.model).executed(self.recipe.execution)
        unrolled = whole.unrolled(pretraining.layers) if moment.step < pretraining.steps else None
        if unrolled is None:
            reading, penalties = self._learn(whole.solved(**self.recipe.solver_steps.at(moment.progress)), x, y, moment)
        else:
            objective = self.objective if pretraining.adversarial else Standard()
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
        host = torch.Generator().manual_seed(_seed(self.recipe.schedule.seed, moment.step, "jacobian"))
        jitter = self.recipe.regularization.jacobian.draw(moment.progress, host)
        pupil = pupil if jitter is None else pupil.penalised(jitter)
        reading = self.objective.read(pupil.model, x, y, found, moment)
        if reading.solution is None:
            return reading, {}
        return reading, self.recipe.regularization.penalties(pupil.deq, reading.solution, y, jitter is not None)

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
        validation = self.recipe.validation
        with evaluating(model):
            adversaries = validation.attack(pupil.surrogate(validation.gradient), x, y)
            with torch.no_grad():
                logits, solution = pupil.respond(Adversaries(x))
                robust = correct(Defended(model, as_deployed(model))(adversaries), y)
                measured = {"clean": correct(logits, y), "robust": robust}
            if solution is not None:
                trajectory = solution.trajectory
                measured["clean"] &= ~trajectory.diverged
                measured |= {"diverged": trajectory.diverged, "final_residual": trajectory.residuals[-1]}
                if batch_idx == 0:
                    draws = torch.Generator(x.device).manual_seed(self.recipe.schedule.seed)
                    radius = spectral_radius(solution, steps=50, generator=draws).mean()
                    lipschitz = lipschitz_constant(solution, steps=20, generator=draws).mean()
                    found = {"spectral_radius": radius, "lipschitz": lipschitz}
                    self.log_dict(found, batch_size=weight, sync_dist=True)
        means = {name: values.float().mean() for name, values in measured.items()}
        self.log_dict(means, prog_bar=True, batch_size=weight, sync_dist=True)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.recipe.optimization.optimizer(self.model)
        scheduler = self.recipe.optimization.scheduler(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _seed(*parts: object) -> int:
    """A seed that is a function of the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7])
