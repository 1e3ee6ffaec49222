"""What keeps a run from ruin: a guard against divergence, and one against catastrophic overfitting."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import lightning
import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.deq.modes import evaluating
from robustdeq.training.averaging import Averaging
from robustdeq.training.learner import learner
from robustdeq.training.module import Training
from robustdeq.training.recipe import Guard, OverfittingWatch

_log = logging.getLogger(__name__)


class DivergenceGuard(Callback):
    """Ends a run whose loss or weights are not finite, or whose solves diverge.

    Args:
        guard: when.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self._guard.every == 0 or trainer.global_step >= trainer.max_steps:
            self.look(trainer, pl_module)

    def look(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Look at all steps since the last look, and at the weights and the optimiser as they are.

        Raises:
            InputError: the run has diverged; in every process, where it has in one.
        """
        assert isinstance(module, Training)
        if module.suspects is None:
            return
        kept = [*module.parameters(), *module.buffers()]
        states = (state.values() for optimizer in trainer.optimizers for state in optimizer.state.values())
        kept += [value for state in states for value in state if isinstance(value, Tensor)]
        broken = torch.stack([~tensor.isfinite().all().to(module.device) for tensor in kept]).sum()
        seen = torch.cat([module.suspects, broken.to(module.suspects)[None]])
        lost, diverged, samples, broken = trainer.strategy.reduce(seen, reduce_op="sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        module.suspects = None
        step = trainer.global_step
        if lost or broken:
            culprit = "loss was" if lost else "weights were"
            raise InputError(
                f"the training diverged: its {culprit} not finite at step {step} or shortly before; lower the learning "
                "rate, or clip the gradient, and resume from the last checkpoint."
            )
        if diverged > self._guard.diverged * samples:
            raise InputError(
                f"the training diverged: the solver did on {diverged / samples:.0%} of the samples before step {step}; "
                "regularise the Jacobian or lower the learning rate, and resume from the last checkpoint."
            )


class OverfittingGuard(Callback):
    """Goes back to the last good weights when the model overfits catastrophically.

    Args:
        watch: when.
        x: held-out images.
        y: their labels.
        averaging: the average of the weights, which goes back with them; None where none is taken.
    """

    def __init__(
        self,
        watch: OverfittingWatch,
        x: Float[Tensor, "n *image"],
        y: Int[Tensor, "n"],
        averaging: Averaging | None = None,
    ) -> None:
        self._watch = watch
        self._averaging = averaging
        self._x, self._y = x, y
        self._best = 0.0
        self._looked = 0
        self._good: dict[str, Any] | None = None
        self.reverted: list[int] = []

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self._watch.every or trainer.global_step == self._looked:
            return
        assert isinstance(pl_module, Training)
        self._looked = trainer.global_step
        robust = float(trainer.strategy.reduce(self._robust(pl_module), reduce_op="mean"))  # pyright: ignore[reportArgumentType]
        if robust >= self._best - self._watch.drop or self._good is None:
            self._best = max(self._best, robust)
            optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
            self._good = copy.deepcopy({"model": pl_module.model.state_dict(), "optimizers": optimizers})
            return
        _log.warning(
            "step %d: the model overfits to its attack (accuracy under PGD on held-out images fell from %.0f%% to "
            "%.0f%%); it goes back to its last good weights, and the attack makes one step more.",
            trainer.global_step,
            100 * self._best,
            100 * robust,
        )
        good = copy.deepcopy(self._good)
        pl_module.model.load_state_dict(good["model"])
        for optimizer, state in zip(trainer.optimizers, good["optimizers"], strict=True):
            optimizer.load_state_dict(state | {"param_groups": optimizer.state_dict()["param_groups"]})
        if self._averaging is not None:
            self._averaging.restart(pl_module)
        pl_module.objective = pl_module.objective.strengthened()
        self.reverted.append(trainer.global_step)

    def _robust(self, module: Training) -> Float[Tensor, ""]:
        model = module.model
        x, y = self._x.to(module.device), self._y.to(module.device)
        with evaluating(model):
            surrogate = learner(model).surrogate(module.recipe.validation.gradient)
            adversaries = replace(self._watch.attack, random_start=False)(surrogate, x, y)
            with torch.no_grad():
                return correct(model(adversaries), y).float().mean()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "looked": self._looked, "good": self._good, "reverted": self.reverted}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._looked = state_dict["best"], state_dict["looked"]
        self._good, self.reverted = state_dict["good"], list(state_dict["reverted"])

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        for _ in self.reverted:
            pl_module.objective = pl_module.objective.strengthened()
