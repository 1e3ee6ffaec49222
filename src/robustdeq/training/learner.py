"""What training asks of a model, with one interface for deep equilibrium models and for explicit networks.

The settings of a training step, such as fewer solver steps, are those of a view that shares the weights; the model
itself stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.base.shapes import Logits, Pixels, State
from robustdeq.deq import DEQ
from robustdeq.deq.cell import Execution
from robustdeq.deq.gradients import Gradient, StateGradient, Surrogate, ThroughSolver, own_gradient
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Picard
from robustdeq.training.inner import WarmStarted


@dataclass(frozen=True, eq=False)
class Adversaries:
    """The images that a step trains on.

    Args:
        images: the images.
        state: a fixed point near theirs to start the solves from; None to start anew.
        steps: solver steps from there.
    """

    images: Pixels
    state: State | None = None
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

    def respond(self, found: Adversaries) -> tuple[Logits, Solution | None]:
        """The logits with the gradient of the weights, and the solve behind them where there is one."""
        return self.model(found.images), None

    def surrogate(self, gradient: Gradient | None = None, warm_steps: int | None = None) -> nn.Module:
        """What an attack differentiates.

        Args:
            gradient: of a DEQ; None for its own. A network is differentiated by autograd.
            warm_steps: solver steps from the fixed point of the iterate before; None to solve anew.
        """
        return self.model


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
    def respond(self, found: Adversaries) -> tuple[Tensor, Solution | None]:
        deq = self.deq if found.steps is None else self.solved(max_steps=found.steps).deq
        record = deq.gradient is not None and deq.gradient.records()
        solution = deq.solution(found.images, record=record, initial=found.state)
        return deq.logits(solution), solution

    @override
    def surrogate(self, gradient: Gradient | None = None, warm_steps: int | None = None) -> Surrogate:
        gradient = own_gradient(self.deq) if gradient is None else gradient
        if warm_steps is None:
            return Surrogate(self.deq, gradient)
        assert isinstance(gradient, StateGradient)
        return WarmStarted(self.deq, gradient, warm_steps)


class _Executed(nn.Module):
    """A network that is evaluated as an `Execution` says; its logits have the precision of the images."""

    def __init__(self, network: nn.Module, execution: Execution) -> None:
        super().__init__()
        self.network = torch.compile(network) if execution.compiled else network
        self.execution = execution

    def forward(self, x: Pixels) -> Logits:
        with self.execution.autocast(x.device):
            return self.network(x).to(x.dtype)


def learner(model: nn.Module) -> Learner:
    """A model with what training asks of it."""
    return DEQLearner(model) if isinstance(model, DEQ) else Learner(model)
