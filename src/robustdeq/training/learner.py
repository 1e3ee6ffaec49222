"""What training asks of a model, with one interface for deep equilibrium models and for explicit networks.

The settings of a training step, such as fewer solver steps, are those of a view that shares the weights; the model
itself stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.deq import DEQ
from robustdeq.deq.cell import Execution
from robustdeq.deq.gradients import Gradient, StateGradient, Surrogate, ThroughSolver, own_gradient
from robustdeq.deq.model import Loss
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll
from robustdeq.evaluation import choose_early_state
from robustdeq.solvers import Picard
from robustdeq.training.inner import WarmStarted
from robustdeq.training.regularizers import Regularization
from robustdeq.training.spectrum import lipschitz_constant, spectral_radius


@dataclass(frozen=True)
class Adversaries:
    """The images that a step trains on.

    Args:
        images: the images.
        state: a fixed point near theirs to start the solves from; None to start anew.
        steps: solver steps from there.
    """

    images: Float[Tensor, "batch *image"]
    state: Float[Tensor, "batch *state"] | None = None
    steps: int | None = None


class Learner:
    """An explicit network in training: differentiated by autograd, with nothing to solve.

    Args:
        model: from images to logits.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def deq(self) -> DEQ:
        """The model as a DEQ; raises `InputError` where it is none."""
        raise InputError(f"a {type(self.model).__name__} has no intermediate states; choose another objective.")

    def executed(self, execution: Execution) -> Learner:
        """A view of the model that is evaluated in another way."""
        return self if execution == Execution() else Learner(_Executed(self.model, execution))

    def solved(self, **settings: Any) -> Learner:
        """A view of the model with other settings of its solver, such as `max_steps`; a network has no solver."""
        return self

    def unrolled(self, layers: int) -> Learner | None:
        """A view that applies the cell `layers` times from z_0 under autograd; None where there is no cell."""
        return None

    def penalised(self, jitter: int) -> Learner:
        """A view whose Jacobian can be penalised: f is not compiled, and the solver makes `jitter` steps more."""
        return self

    def respond(
        self, x: Float[Tensor, "batch *image"], near: Adversaries | None = None
    ) -> tuple[Float[Tensor, "batch classes"], Solution | None]:
        """The logits with the gradient of the weights, and the solve behind them where there is one.

        Args:
            x: the images, (B, C, H, W).
            near: whose fixed point the solve starts from; None to start anew.
        """
        return self.model(x), None

    def surrogate(self, gradient: Gradient | None = None) -> nn.Module:
        """What an attack differentiates.

        Args:
            gradient: of a DEQ; None for its own. A network is differentiated by autograd.
        """
        return self.model

    def climb(
        self,
        attack: PGD,
        x: Float[Tensor, "batch *image"],
        start: Float[Tensor, "batch *image"],
        loss: Loss,
        gradient: StateGradient | None,
        warm_steps: int | None,
    ) -> Adversaries:
        """The last iterate of an attack.

        Args:
            attack: the attack.
            x: clean images, (B, C, H, W).
            start: where it starts.
            loss: logits (B, K) → per-sample loss (B,), which it raises.
            gradient: what it climbs; see `surrogate`.
            warm_steps: solver steps from the fixed point of the iterate before; None to solve anew.
        """
        return Adversaries(attack.run(self.surrogate(gradient), x, start, loss))

    def penalties(
        self, regularization: Regularization, jitter: int | None, solution: Solution | None, y: Int[Tensor, "batch"]
    ) -> dict[str, Float[Tensor, ""]]:
        """What is added to the loss, by name.

        Args:
            regularization: the penalties.
            jitter: None where the Jacobian is not penalised in this step.
            solution: the solve of the loss.
            y: the labels.
        """
        return {}

    def convergence(self, x: Float[Tensor, "batch *image"]) -> dict[str, Tensor]:
        """How the solves of images end, sample by sample: `diverged` and `final_residual`."""
        return {}

    def spectrum(self, x: Float[Tensor, "batch *image"], generator: torch.Generator) -> dict[str, Tensor]:
        """Estimates of the spectral radius and of the Lipschitz constant of f at z*, means over the batch."""
        return {}

    def early_state(
        self,
        x: Float[Tensor, "samples *image"],
        y: Int[Tensor, "samples"],
        attack: PGD,
        gradient: Gradient | None,
        batch_size: int,
    ) -> int | None:
        """The n of the early state, chosen on these images; see `choose_early_state`. None for a network."""
        return None


class DEQLearner(Learner):
    """A deep equilibrium model in training, with its own gradient.

    Args:
        model: the model.
    """

    def __init__(self, model: DEQ) -> None:
        super().__init__(model)
        self._deq = model

    @property
    @override
    def deq(self) -> DEQ:
        return self._deq

    @override
    def executed(self, execution: Execution) -> DEQLearner:
        return DEQLearner(self.deq.with_settings(execution=execution))

    @override
    def solved(self, **settings: Any) -> DEQLearner:
        return DEQLearner(self.deq.with_settings(solver=replace(self.deq.solver, **settings)))

    @override
    def unrolled(self, layers: int) -> DEQLearner:
        solver = Picard(max_steps=layers, tol=0.0, result="last")
        return DEQLearner(self.deq.with_settings(solver=solver, tail=Unroll(steps=0), gradient=ThroughSolver()))

    @override
    def penalised(self, jitter: int) -> DEQLearner:
        longer = self.solved(max_steps=max(self.deq.solver.max_steps + jitter, 1))
        return longer.executed(replace(self.deq.execution, compiled=False))

    @override
    def respond(self, x: Tensor, near: Adversaries | None = None) -> tuple[Tensor, Solution | None]:
        near = Adversaries(x) if near is None else near
        deq = self.deq if near.steps is None else self.solved(max_steps=near.steps).deq
        record = deq.gradient is not None and deq.gradient.records()
        solution = deq.solution(x, record=record, initial=near.state)
        return deq.logits(solution), solution

    @override
    def surrogate(self, gradient: Gradient | None = None) -> Surrogate:
        return Surrogate(self.deq, own_gradient(self.deq) if gradient is None else gradient)

    @override
    def climb(
        self,
        attack: PGD,
        x: Tensor,
        start: Tensor,
        loss: Loss,
        gradient: StateGradient | None,
        warm_steps: int | None,
    ) -> Adversaries:
        if warm_steps is None:
            return super().climb(attack, x, start, loss, gradient, warm_steps)
        warm = WarmStarted(self.deq, own_gradient(self.deq) if gradient is None else gradient, warm_steps)
        return Adversaries(attack.run(warm, x, start, loss), warm.state, warm_steps)

    @override
    def penalties(
        self, regularization: Regularization, jitter: int | None, solution: Solution | None, y: Tensor
    ) -> dict[str, Tensor]:
        return {} if solution is None else regularization.penalties(self.deq, solution, y, jitter is not None)

    @override
    def convergence(self, x: Tensor) -> dict[str, Tensor]:
        trajectory = self.deq.solve(x)
        return {"diverged": trajectory.diverged, "final_residual": trajectory.residuals[-1]}

    @override
    def spectrum(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        solution = self.deq.solution(x)
        return {
            "spectral_radius": spectral_radius(solution, steps=50, generator=generator).mean(),
            "lipschitz": lipschitz_constant(solution, steps=20, generator=generator).mean(),
        }

    @override
    def early_state(self, x: Tensor, y: Tensor, attack: PGD, gradient: Gradient | None, batch_size: int) -> int:
        gradient = own_gradient(self.deq) if gradient is None else gradient
        return choose_early_state(self.deq, x, y, attack, gradient, batch_size)


class _Executed(nn.Module):
    """A network that is evaluated as an `Execution` says; its logits have the precision of the images."""

    def __init__(self, network: nn.Module, execution: Execution) -> None:
        super().__init__()
        self.network = torch.compile(network) if execution.compiled else network
        self.execution = execution

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch classes"]:
        with self.execution.autocast(x.device):
            return self.network(x).to(x.dtype)


def learner(model: nn.Module) -> Learner:
    """A model with what training asks of it."""
    return DEQLearner(model) if isinstance(model, DEQ) else Learner(model)
