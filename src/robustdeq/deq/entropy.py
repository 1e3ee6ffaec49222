"""Input entropy reduction (Yang, Li, Pang and Liu, ICML 2023, §3.2): a defense that moves its input while it solves.

After every T_f steps of the solver the input takes R steps that lower the entropy of the prediction it leads to,

    x ← Π(x − β d),   d the direction of steepest ascent of H(x; z) = entropy(softmax(head(f(z; x)))) in x, z fixed,

with z the state that the solver has reached and Π the projection onto the ball around the given input; the solver then
goes on from z with the input so moved. The published evaluation attacks the bare model, which knows nothing of the
moves. What is defended is a function of the given input all the same, and here is its derivative: through the tail,
every segment of the solve and every move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import check_choice, require
from robustdeq.base.norms import Norm
from robustdeq.base.shapes import Logits, PerSample, Pixels, State, per_sample
from robustdeq.base.threat import ThreatModel
from robustdeq.deq.defenses import Defended, Defense, as_deq
from robustdeq.deq.gradients.solver import ThroughSolver
from robustdeq.deq.model import DEQ
from robustdeq.deq.modes import frozen
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll


class Backward(StrEnum):
    """How the moves of the input are differentiated.

    `through` differentiates the direction d as well, by a second backward pass through head and f: exactly for L2; for
    Linf and L1, where the sign has derivative zero, the backward pass alone takes tanh(g / (τ mean|g|)) for sign(g).
    `straight-through` takes d to be constant. Both differentiate the projection.
    """

    THROUGH = "through"
    STRAIGHT_THROUGH = "straight-through"


@dataclass(frozen=True)
class EntropyReduction(Defense):
    """The defense and how it moves its input; the defaults are the published ones, for a model of N = 8 steps.

    Args:
        interval: T_f, the solver steps between two moves; from N on, the input is never moved.
        steps: R, the steps of a move; 0 leaves the input where it is.
        step_size: β, how far each step goes, in the units of pixels and the norm of the ball.
        eps: the radius of the ball around the given input that the moves stay in.
        norm: `"Linf"`, `"L2"`, `"L1"` or any `Norm`.
        bounds: the least and the greatest pixel.

    Raises:
        InputError: a setting is out of its range.
    """

    title: ClassVar[str] = "entropy reduction"

    interval: int = 2
    steps: int = 10
    step_size: float = 2 / 255
    eps: float = 8 / 255
    norm: str | Norm = "Linf"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", self.threat.norm)
        require(self.interval >= 1, f"interval is {self.interval}; a segment of the solve takes at least 1 step.")
        require(self.steps >= 0, f"steps is {self.steps}; a move of the input makes 0 or more steps.")
        require(0 < self.step_size < math.inf, f"step_size is {self.step_size}; give a positive number that is finite.")

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        return EntropyReduced(as_deq(model), self)(x)

    @override
    def evaluations(self, model: nn.Module) -> int:
        deq = as_deq(model)
        moves = len(self.segments(deq.solver.max_steps)) - 1
        return deq.evaluations(None) + moves * (1 + 3 * self.steps)

    @override
    def surrogates(self, defended: Defended) -> dict[str, nn.Module]:
        """The defense differentiated through its inner steps, straight over them, and straight over a single one."""
        deq, straight = as_deq(defended.deq), Backward.STRAIGHT_THROUGH
        return {
            "through the inner steps": EntropyReduced(deq, self),
            "straight-through": EntropyReduced(deq, self, straight),
            "one inner step": EntropyReduced(deq, replace(self, steps=min(self.steps, 1)), straight),
        }

    @property
    def threat(self) -> ThreatModel:
        """The ball that the moves stay in."""
        return ThreatModel(self.eps, self.norm, self.bounds)

    def segments(self, max_steps: int) -> list[int]:
        """How many steps each segment of a solve of N steps takes; a move stands between any two."""
        whole, rest = divmod(max_steps, self.interval)
        return [self.interval] * whole + [rest] * (rest > 0)


def prediction_entropy(deq: DEQ, x: Pixels, state: State) -> PerSample:
    """H(x; z), the entropy in nats of the prediction after one evaluation of f at the state z."""
    _, cell, _ = deq.bind(x)
    log_probabilities = deq.classify(cell, cell(state)).log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


class EntropyReduced(nn.Module):
    """A model x → logits that reduces the entropy of its predictions along the solve.

    Each segment starts at the z* of the one before, with the method's memory empty; the last one ends in the model's
    own tail. The backward pass reaches the input alone: the weights are constants. The cell is not compiled, since its
    second derivative is needed.

    Args:
        deq: the model.
        reduction: how the input is moved.
        backward: `"through"` or `"straight-through"`, how the moves are differentiated.
        temperature: τ of the smooth sign, without unit.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self, deq: DEQ, reduction: EntropyReduction, backward: str = "through", temperature: float = 1.0
    ) -> None:
        super().__init__()
        check_choice("backward", backward, Backward)
        require(temperature > 0, f"temperature is {temperature}; give a positive number.")
        self.deq = deq.with_settings(execution=replace(deq.execution, compiled=False))
        self.reduction = reduction
        self.backward = Backward(backward)
        self.temperature = temperature

    def forward(self, x: Pixels) -> Logits:
        """The defended logits; nan for a sample that diverged in any segment: it counts as an error of the defense."""
        self.deq.check_input(x)
        *segments, last = self.reduction.segments(self.deq.solver.max_steps)
        with frozen(self.deq):
            moved, state = x, None
            diverged = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            for steps in segments:
                solution, state = self._solve(moved, state, steps, Unroll(0))
                diverged = diverged | solution.trajectory.diverged
                moved = self.move(moved, state, x)
            solution, state = self._solve(moved, state, last, self.deq.tail)
            diverged = diverged | solution.trajectory.diverged
            return self.deq.classify(solution.cell, state).masked_fill(diverged[:, None], torch.nan)

    def move(self, x: Pixels, state: State, center: Pixels) -> Pixels:
        """The input after R steps from x that lower H(x; z), z the state, within the ball around the given input."""
        threat = self.reduction.threat
        for _ in range(self.reduction.steps):
            x = threat.project(x - self.reduction.step_size * self._direction(x, state), center)
        return x

    def _solve(self, x: Tensor, state: Tensor | None, steps: int, tail: Unroll) -> tuple[Solution, State]:
        """The solve of a segment and the state it ends in, differentiable in x and in the state it starts from."""
        segment = self.deq.with_settings(solver=replace(self.deq.solver, max_steps=steps), tail=tail)
        solution = segment.solution(x, record=True, initial=state)
        return solution, ThroughSolver().read(solution)

    def _direction(self, x: Tensor, state: Tensor) -> Pixels:
        """d; zero for a sample whose entropy is flat to the last digit."""
        through = self.backward is Backward.THROUGH and torch.is_grad_enabled() and x.requires_grad
        if not through:
            x, state = x.detach(), state.detach()
        with torch.enable_grad():
            here = x.view_as(x).requires_grad_()
            entropy = prediction_entropy(self.deq, here, state).sum()
            gradient = torch.autograd.grad(entropy, here, create_graph=through)[0]
        flat = per_sample((gradient == 0).flatten(1).all(dim=1), x)
        gradient = gradient.masked_fill(flat, 1)
        direction = self.reduction.threat.measure.smooth_steepest(gradient, self.temperature)
        return direction.masked_fill(flat, 0)
