"""One training run as a Lightning module: the objective, the regularisers and the schedules of one model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from robustdeq.deq import DEQ
from robustdeq.deq.cell import Execution
from robustdeq.deq.gradients import Gradient, Phantom, Surrogate, ThroughSolver
from robustdeq.deq.model import solving
from robustdeq.deq.modes import evaluating
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Picard
from robustdeq.training.objectives import AdversarialTraining, Adversaries, Moment, Objective, Reading, Standard
from robustdeq.training.regularizers import FixedPointCorrection, JacobianRegularization, jacobian_penalty
from robustdeq.training.schedules import Optimization, SolverSteps
from robustdeq.training.spectrum import lipschitz_constant, spectral_radius


@dataclass(frozen=True)
class Validation:
    """What is measured on the development split: clean accuracy, and accuracy under the ready-made attack.

    Args:
        attack: the attack.
        gradient: what it climbs; an explicit network is differentiated by autograd.
    """

    attack: PGD = field(default_factory=PGD)
    gradient: Gradient = field(default_factory=Phantom)


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

    @contextmanager
    def unrolling(self, deq: DEQ) -> Iterator[None]:
        """Within it the model is its cell unrolled."""
        usual = deq.solver, deq.tail, deq.gradient
        deq.solver = Picard(max_steps=self.layers, tol=0.0, result="last")
        deq.tail, deq.gradient = Unroll(steps=0), ThroughSolver()
        try:
            yield
        finally:
            deq.solver, deq.tail, deq.gradient = usual


@dataclass(frozen=True)
class Regularization:
    """What is added to the loss of a DEQ.

    Args:
        jacobian: a penalty on the Jacobian at the fixed point.
        correction: the loss at intermediate states.
    """

    jacobian: JacobianRegularization = field(default_factory=JacobianRegularization)
    correction: FixedPointCorrection = field(default_factory=FixedPointCorrection)


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
        warm = isinstance(objective, AdversarialTraining) and objective.warm_steps
        if self.pretraining.steps and self.pretraining.adversarial and warm:
            raise InputError("adversarial pretraining unrolls the cell from z_0; set warm_steps to None.")
        self.suspects: Float[Tensor, "3"] | None = None
        if self.execution.compiled and not isinstance(model, DEQ):
            model.compile()

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

    @property
    def _pretrains(self) -> bool:
        return isinstance(self.model, DEQ) and self.global_step < self.pretraining.steps

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        x, y = batch
        seed = _seed(self.seed, self.global_step, batch_idx, self.global_rank)
        torch.manual_seed(_seed(seed, "layers"))
        moment = Moment(self.global_step, self.progress, torch.Generator(x.device).manual_seed(seed))
        objective = Standard() if self._pretrains and not self.pretraining.adversarial else self.objective
        with self._phase(moment, x.device):
            found = objective.adversaries(self.model, x, y, moment)
            reading, penalties = self._read(objective, x, y, found, moment)
        loss = torch.stack([reading.loss, *penalties.values()]).sum()
        self._watch(loss, reading)
        self.log_dict({"loss": loss.detach(), **{name: penalty.detach() for name, penalty in penalties.items()}})
        self.log("accuracy", correct(reading.logits.detach(), y).float().mean())
        return loss

    def _read(
        self, objective: Objective, x: Tensor, y: Tensor, found: Adversaries, moment: Moment
    ) -> tuple[Reading, dict[str, Tensor]]:
        """The loss, and the penalties that this step adds."""
        model, jacobian, correction = self.model, self.regularization.jacobian, self.regularization.correction
        if not isinstance(model, DEQ) or self._pretrains:
            return objective.read(model, x, y, found, moment), {}
        penalties: dict[str, Tensor] = {}
        host = torch.Generator().manual_seed(_seed(self.seed, moment.step, "jacobian"))
        jitter = jacobian.draw(moment.progress, host)
        steps = max(model.solver.max_steps + (jitter or 0), 1)
        if jitter is not None:
            model.execution = replace(model.execution, compiled=False)
        with solving(model, max_steps=steps):
            reading = objective.read(model, x, y, found, moment)
            if reading.solution is not None and jitter is not None:
                penalties["jacobian"] = jacobian.weight * jacobian_penalty(reading.solution, jacobian.probes)
            if reading.solution is not None and correction.weight > 0:
                penalties["correction"] = correction.penalty(model, reading.solution, y)
        return reading, penalties

    @contextmanager
    def _phase(self, moment: Moment, device: torch.device) -> Iterator[None]:
        """Within it the model is evaluated as this moment of the training has it."""
        model = self.model
        if not isinstance(model, DEQ):
            with self.execution.autocast(device):
                yield
            return
        model.execution = self.execution
        try:
            with ExitStack() as stack:
                if self._pretrains:
                    stack.enter_context(self.pretraining.unrolling(model))
                else:
                    stack.enter_context(solving(model, **self.solver_steps.at(moment.progress)))
                yield
        finally:
            model.execution = Execution()

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
        model, validation = self.model, self.validation
        is_deq = isinstance(model, DEQ)
        weight = len(x) * self.world_size  # Lightning divides it by the number of processes, rounding down
        attack = replace(validation.attack, seed=validation.attack.seed + batch_idx)
        with evaluating(model):
            adversaries = attack(Surrogate(model, validation.gradient) if is_deq else model, x, y)
            with torch.no_grad():
                measured = {"clean": correct(model(x), y), "robust": correct(model(adversaries), y)}
            if is_deq:
                trajectory = model.solve(x)
                measured |= {"diverged": trajectory.diverged, "final_residual": trajectory.residuals[-1]}
            if is_deq and batch_idx == 0:
                draws = torch.Generator(x.device).manual_seed(self.seed)
                solution = model.solution(x)
                spectrum = {
                    "spectral_radius": spectral_radius(solution, steps=50, generator=draws).mean(),
                    "lipschitz": lipschitz_constant(solution, steps=20, generator=draws).mean(),
                }
                self.log_dict(spectrum, batch_size=weight, sync_dist=True)
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
