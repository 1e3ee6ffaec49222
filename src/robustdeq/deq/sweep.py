"""Reverse mode through one solve: the derivative of the program that computes a mean of states.

The mean Σ_n ω_n z_n is a function of x by z_{n+1} = z_n + s_n, s_n the solver's combination of g_0 … g_n and
s_0 … s_{n−1}, and z_{N+1} = tail(z*). Its derivative needs neither convergence nor a fixed point. Which iterate is z*,
where a sample freezes and how far a line search went are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from robustdeq.deq.solve import Solution
from robustdeq.solvers.reverse import ReverseSweep


class _Attach(torch.autograd.Function):
    """A value whose backward pass is any linear map."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, pull_back: Callable[[Tensor], Sequence[Tensor]], *tensors: Tensor) -> Tensor:
        ctx.pull_back = pull_back
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *ctx.pull_back(*cotangents)


def attach(
    value: Tensor, pull_back: Callable[[Tensor, tuple[Tensor, ...]], Sequence[Tensor]], tensors: Sequence[Tensor]
) -> Tensor:
    """`value`, with the backward pass `pull_back`.

    Args:
        value: any tensor.
        pull_back: (cotangent of value, tensors) → the cotangent of each tensor.
        tensors: what value is differentiated with respect to; those that need no gradient are left out.
    """
    wanted = tuple(tensor for tensor in tensors if tensor.requires_grad)
    return _Attach.apply(value.detach(), lambda cotangent: pull_back(cotangent, wanted), *wanted) if wanted else value


def through_solver(
    solution: Solution, mean: Float[Tensor, "batch *state"], weights: Mapping[int, Float[Tensor, "batch"]]
) -> Float[Tensor, "batch *state"]:
    """The mean of states Σ_n ω_n z_n of a kept solve, with the backward pass through the solver.

    Args:
        solution: the solve.
        mean: the value.
        weights: n → ω_n of each sample.
    """
    columns = {n: weight[:, None] for n, weight in weights.items()}

    def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
        return _sweep(solution, columns, cotangent.flatten(1), tensors)

    return attach(mean, pull_back, (*solution.cell.tensors, solution.initial))


def _sweep(
    solution: Solution,
    weights: Mapping[int, Float[Tensor, "batch 1"]],
    cotangent: Float[Tensor, "batch dim"],
    tensors: tuple[Tensor, ...],
) -> list[Tensor]:
    """The cotangents of `tensors` (weights, u, and z_0 where it needs one), given that of the mean."""
    trajectory = solution.trajectory
    last = trajectory.max_steps + 1
    through_cell = tuple(tensor for tensor in tensors if tensor is not solution.initial)
    totals = [torch.zeros_like(tensor) for tensor in through_cell]
    on_solution = on_image = torch.zeros_like(cotangent)
    reads_final = last in weights
    if reads_final:
        start, tail = solution.pull_back_tail(weights[last] * cotangent, through_cell)
        totals = [total + part for total, part in zip(totals, tail, strict=True)]
        on_solution, on_image = (on_image, start) if solution.tail.from_image else (start, on_image)

    sweep = ReverseSweep(trajectory)
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
            on_increment = torch.where((n < trajectory.steps)[:, None], on_increment + sweep.increments[n], 0)
            _, window = trajectory.solver.window(n)
            kept = trajectory.residual_vectors
            residuals = linearization.residual[None] if kept is None else kept[window.start : window.stop]
            for k, bar in zip(window, sweep.pull_back(n, on_increment, residuals), strict=True):
                residual_bars[k] = residual_bars[k] + bar if k in residual_bars else bar
        on_residual = residual_bars.pop(n, torch.zeros_like(cotangent))
        through_state, parts = linearization.vjp(on_value + on_residual, through_cell)
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
        on_state = on_state + through_state - on_residual
    found = dict(zip(map(id, through_cell), totals, strict=True)) | {id(solution.initial): on_state}
    return [found[id(tensor)].view_as(tensor) for tensor in tensors]
