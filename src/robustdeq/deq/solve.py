"""One solve of a model: its states one by one or all of them, its tail, and the way back through all of it.

The mean Σ_n ω_n z_n of states is a function of x by z_{n+1} = z_n + s_n, s_n the solver's combination of g_0 … g_n and
s_0 … s_{n−1}, and z_{N+1} = tail(z*). Its derivative, the reverse mode of this program, needs neither convergence nor a
fixed point. Which iterate is z*, where a sample freezes and how far a line search went are constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from robustdeq.base.history import made_of
from robustdeq.base.shapes import Flat, Injected, Mask, PerSample, State, per_sample
from robustdeq.deq.cell import BoundCell, Linearization
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Solver, Trajectory
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
    wanted = tuple({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())
    return _Attach.apply(value.detach(), lambda cotangent: pull_back(cotangent, wanted), *wanted) if wanted else value


@dataclass(frozen=True, eq=False)
class SolveState:
    """One state of a solve.

    Attributes:
        index: n, from 1 to N + 1 (the final state).
        state: z_n.
        visited: whether it is a state of its own for each sample, not a repetition of a frozen one.
        lost: whether each sample had diverged before it could reach z_n.
    """

    index: int
    state: State
    visited: Mask
    lost: Mask


class Tape:
    """A cell that records its graph at every state where it is evaluated, in order."""

    def __init__(self, cell: BoundCell) -> None:
        self._cell = cell
        self._recorded: dict[int, Linearization] = {}

    def __call__(self, z: State) -> State:
        """f(z), recorded."""
        latest = self._recorded[len(self._recorded)] = Linearization(self._cell, z)
        return latest.value

    def take(self, i: int) -> Linearization | None:
        """The i-th evaluation; the tape forgets it, so that its graph is freed after use. None if it has none."""
        return self._recorded.pop(i, None)


class Solution:
    """One solve of a model for a batch of inputs; it runs when its states are asked for.

    Ask for `trajectory` to keep the states, as gradients do, or go through `states` at once, in O(1) memory.

    Attributes:
        u: the injection of x, attached to the graph of x.
        cell: the cell bound to u.
        initial: z_0, attached to u where it depends on it.
        solver: the fixed-point method, with the steps that are needed.
        tail: the model's tail.
    """

    def __init__(
        self,
        u: Injected,
        cell: BoundCell,
        initial: State,
        solver: Solver,
        tail: Unroll,
        until: int | None = None,
        record: bool = False,
        record_tail: bool = True,
    ) -> None:
        self.u, self.cell, self.initial, self.tail = u, cell, initial.view_as(initial), tail
        self._whole = until is None or until > solver.max_steps
        self.solver = solver if until is None or self._whole else replace(solver, max_steps=until)
        self._record = record and solver.evaluates_once and torch.is_grad_enabled()
        self._record_tail = self._record and record_tail
        self._tape, self._tail_tape = Tape(cell), Tape(cell)

    @cached_property
    def trajectory(self) -> Trajectory:
        """The states z_1 … z_N that the solver visits."""
        function = self._tape if self._record else self.cell
        return self.solver.solve(function, self.initial.detach(), evaluate_last=self._whole)

    def linearize(self, n: int) -> Linearization:
        """The cell at z_n: as it was recorded, which is given up, or evaluated again.

        Where a sample had diverged by then it is evaluated at its z_0: where f overflows, even its product with zero is
        not finite, and weights are shared. Where the host does not wait for the device, nobody knows of it.
        """
        recorded = self._tape.take(n)
        if not self._first_lost <= n <= self.trajectory.max_steps:
            return recorded or Linearization(self.cell, self.state(n))
        lost = per_sample(self.trajectory.diverged & (self.trajectory.steps <= n), self.initial)
        return Linearization(self.cell, torch.where(lost, self.initial.detach(), self.state(n)))

    @cached_property
    def _first_lost(self) -> float:
        """The least n at which a sample had diverged."""
        known = self.solver.may_sync(self.initial)
        return min(self.trajectory.steps[self.trajectory.diverged].tolist(), default=math.inf) if known else math.inf

    @cached_property
    def made_of_u(self) -> tuple[Tensor, ...]:
        """The tensors of f that are made of u, or are it."""
        return tuple(made_of(self.cell.tensors, self.u))

    def on_injection(self, parts: Sequence[Tensor]) -> Injected:
        """The cotangent of u, given those of the tensors of f that are made of it."""
        if not (parts and self.u.requires_grad):
            return torch.zeros_like(self.u)
        return torch.autograd.grad(self.made_of_u, self.u, parts, retain_graph=True, materialize_grads=True)[0]

    def state(self, n: int) -> State:
        """z_n, n from 0 to N + 1 (the final state), without graph."""
        return self.final if n > self.trajectory.max_steps else self.trajectory.state(n)

    @cached_property
    def start(self) -> State:
        """Where the tail starts: z* or f(z*)."""
        t = self.trajectory
        return (t.best_value if self.tail.from_image else t.solution).view(t.shape)

    @cached_property
    @torch.no_grad()
    def _tail_states(self) -> list[State]:
        """Every state of the tail, from where it starts to z_{N+1}."""
        if self._record_tail:
            return [*self.tail.walk(self._tail_tape, self.start)]
        known = None if self.tail.from_image else self.trajectory.best_value.view(self.trajectory.shape)
        return [*self.tail.walk(self.cell, self.start, known)]

    @property
    def final(self) -> State:
        """z_{N+1}, without graph."""
        return self._tail_states[-1]

    def states(self, wanted: range) -> Iterator[SolveState]:
        """Yield these states in order, from the kept trajectory, or else from a run that keeps none of them.

        Args:
            wanted: their indices, from 1 to N + 1; f is evaluated at none beyond the last but one.
        """
        running = self._kept(wanted) if "trajectory" in self.__dict__ else self._streamed()
        for state in running:
            if state.index in wanted:
                yield state
            if state.index >= wanted[-1]:
                return

    def _kept(self, wanted: range) -> Iterator[SolveState]:
        t = self.trajectory
        first = min(wanted[0], t.max_steps + 1)
        state = t.flat_state(first) if first <= t.max_steps else t.initial
        for n in range(first, t.max_steps + 1):
            state = state if n == first else state + t.increments[n - 1]
            yield SolveState(n, state.view(t.shape), t.visited(n), t.lost(n))
        yield SolveState(t.max_steps + 1, self.final, t.visited(t.max_steps + 1), t.diverged)

    @torch.no_grad()
    def _streamed(self) -> Iterator[SolveState]:
        still = replace(self.cell, function=torch.no_grad()(self.cell.function))
        run = self.solver.iterate(still, self.initial.detach(), hold_best=not self.tail.from_image)
        shape, n, state = self.initial.shape, 0, self.initial
        for iterate in run:
            n, state = iterate.index, iterate.state.view(shape)
            if n > 0:
                yield SolveState(n, state, iterate.visited, run.diverged)
        for repeated in range(n + 1, self.solver.max_steps + 1):
            yield SolveState(repeated, state, torch.zeros_like(run.diverged), run.diverged)
        value = run.best_value.view(shape)
        start = value if run.best_state is None else run.best_state.view(shape)
        final = self.tail(still, start, None if self.tail.from_image else value)
        yield SolveState(self.solver.max_steps + 1, final, torch.ones_like(run.diverged), run.diverged)

    def attached(self, mean: State, weights: Mapping[int, PerSample]) -> State:
        """The mean Σ_n ω_n z_n of kept states, weights n → ω_n, with the backward pass through the solver."""

        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return self._pull_back({n: w[:, None] for n, w in weights.items()}, cotangent.flatten(1), tensors)

        return attach(mean, pull_back, (*self.cell.tensors, self.initial))

    def _pull_back(
        self, weights: Mapping[int, Float[Tensor, "batch 1"]], cotangent: Flat, tensors: tuple[Tensor, ...]
    ) -> list[Tensor]:
        """The cotangents of `tensors` (weights, u, and z_0 where it needs one), given that of the mean."""
        trajectory = self.trajectory
        last = trajectory.max_steps + 1
        through_cell = tuple(tensor for tensor in tensors if tensor is not self.initial)
        totals = [torch.zeros_like(tensor) for tensor in through_cell]

        def through(linearization: Linearization, on_value: Flat) -> Flat:
            """Pull the cotangent of f back to the state; the parts of the other tensors are added to their totals."""
            on_state, parts = linearization.vjp(on_value, through_cell)
            totals[:] = [total + part for total, part in zip(totals, parts, strict=True)]
            return on_state

        on_solution = on_image = torch.zeros_like(cotangent)
        reads_final = last in weights
        if reads_final:
            start = weights[last] * cotangent
            for step, state in reversed([*enumerate(self._tail_states[:-1])]):
                linearization = self._tail_tape.take(step) or Linearization(self.cell, state)
                through_step = through(linearization, self.tail.damping * start)
                start = (1 - self.tail.damping) * start + through_step
            on_solution, on_image = (on_image, start) if self.tail.from_image else (start, on_image)

        sweep = ReverseSweep(trajectory)
        residual_bars: dict[int, Tensor] = {}
        on_state = torch.zeros_like(cotangent)
        for n in reversed(range(last)):
            is_best = (trajectory.best_index == n)[:, None]
            steps_on = n < trajectory.reached
            on_increment = on_state
            if n in weights:
                on_state = on_state + weights[n] * cotangent
            if reads_final and not self.tail.from_image:
                on_state = on_state + torch.where(is_best, on_solution, 0)
            if not steps_on and not (reads_final and self.tail.from_image):
                continue
            linearization = self.linearize(n)
            if steps_on:
                _, window = trajectory.solver.window(n)
                kept = trajectory.residual_vectors
                residuals = linearization.residual[None] if kept is None else kept[window.start : window.stop]
                bars = sweep.pull_back(n, on_increment + sweep.increments[n], residuals)
                for k, bar in zip(window, bars, strict=True):
                    residual_bars[k] = residual_bars[k] + bar if k in residual_bars else bar
            on_residual = residual_bars.pop(n, torch.zeros_like(cotangent))
            on_value = torch.where(is_best, on_image, 0) + on_residual
            on_state = on_state + through(linearization, on_value) - on_residual
        found = dict(zip(map(id, through_cell), totals, strict=True)) | {id(self.initial): on_state}
        return [found[id(tensor)].view_as(tensor) for tensor in tensors]
