"""The gradient through the solver: reverse mode through the iteration that is actually computed.

Where the other gradients estimate the derivative of a fixed point, this one is the derivative of the program: of the
read-out Σ_n ω_n z_n with z_{n+1} = z_n + s_n, s_n the solver's combination of g_0 … g_n and s_0 … s_{n−1}, and
z_{N+1} = tail(z*). It needs neither convergence nor a fixed point. Which iterate is z*, where a sample freezes and how
far a line search went are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from robustdeq.deq.defenses import Defense, FinalState, averaged_state
from robustdeq.deq.gradients.base import StateGradient, attach
from robustdeq.deq.model import DEQ
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll
from robustdeq.solvers.adjoint import RecursionAdjoint


@dataclass(frozen=True)
class ThroughSolver(StateGradient):
    """The exact gradient of what a defense computes.

    Args:
        defense: the read-out.
        checkpoint: evaluate f again in the reverse sweep instead of keeping its graphs: memory is then one graph of f
            plus the states, for one more evaluation of f per step.
    """

    defense: Defense = field(default_factory=FinalState)
    checkpoint: bool = False

    @override
    def check(self, deq: DEQ) -> None:
        self.defense.check(deq)

    @override
    def evaluations(self, deq: DEQ) -> int:
        forward = deq.evaluations(self.until(deq))
        return forward * (4 if self.checkpoint else 3)

    @override
    def until(self, deq: DEQ) -> int | None:
        return self.defense.until(deq.last_state)

    @override
    def records(self) -> bool:
        return not self.checkpoint

    @override
    def reads_final(self, tail: Unroll) -> bool:
        return isinstance(self.defense, FinalState)

    @override
    def read(self, solution: Solution) -> Float[Tensor, "batch *state"]:
        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return _sweep(solution, self.defense, cotangent.flatten(1), tensors)

        last = solution.trajectory.max_steps + 1
        if last in self.defense.states(last):
            solution.run_tail(record=not self.checkpoint)
        return attach(averaged_state(self.defense, solution), pull_back, (*solution.cell.tensors, solution.initial))


def _sweep(
    solution: Solution, defense: Defense, cotangent: Float[Tensor, "batch dim"], tensors: tuple[Tensor, ...]
) -> list[Tensor]:
    """The cotangents of `tensors` (weights, u, and z_0 where it needs one), given that of the read-out."""
    trajectory = solution.trajectory
    last = trajectory.max_steps + 1
    weights = {n: weight[:, None] for n, weight in defense.weights(trajectory, last).items()}
    through_cell = tuple(tensor for tensor in tensors if tensor is not solution.initial)
    totals = [torch.zeros_like(tensor) for tensor in through_cell]
    on_solution = on_image = torch.zeros_like(cotangent)
    reads_final = last in weights
    if reads_final:
        start, tail = solution.pull_back_tail(weights[last] * cotangent, through_cell)
        totals = [total + part for total, part in zip(totals, tail, strict=True)]
        on_solution, on_image = (on_image, start) if solution.tail.from_image else (start, on_image)

    recursion = RecursionAdjoint(trajectory)
    residual_bars: dict[int, Tensor] = {}
    on_state = torch.zeros_like(cotangent)
    for n in reversed(range(last)):
        is_best = (trajectory.best_index == n)[:, None]
        steps_on = n < trajectory.reached
        on_value = torch.where(is_best, on_image, 0)
        on_increment = on_state
        if n in weights:
            on_state = on_state + weights[n] * cotangent
        if reads_final and not solution.tail.from_image:
            on_state = on_state + torch.where(is_best, on_solution, 0)
        if not steps_on and not (reads_final and solution.tail.from_image):
            continue
        linearization = solution.linearize(n)
        if steps_on:
            on_increment = torch.where((n < trajectory.steps)[:, None], on_increment + recursion.increments[n], 0)
            _, window = trajectory.solver.window(n)
            kept = trajectory.residual_vectors
            residuals = linearization.residual[None] if kept is None else kept[window.start : window.stop]
            for k, bar in zip(window, recursion.pull_back(n, on_increment, residuals), strict=True):
                residual_bars[k] = residual_bars[k] + bar if k in residual_bars else bar
        on_residual = residual_bars.pop(n, torch.zeros_like(cotangent))
        through_state, parts = linearization.vjp(on_value + on_residual, through_cell)
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
        on_state = on_state + through_state - on_residual
    found = dict(zip(map(id, through_cell), totals, strict=True)) | {id(solution.initial): on_state}
    return [found[id(tensor)].view_as(tensor) for tensor in tensors]
