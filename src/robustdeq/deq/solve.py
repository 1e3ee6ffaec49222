"""One solve of a model: its states one by one or all of them, its tail, and f there with its graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustdeq.deq.cell import BoundCell, Linearization
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Solver, Trajectory


@dataclass(frozen=True)
class SolveState:
    """One state of a solve.

    Attributes:
        index: n, from 1 to N + 1 (the final state).
        state: z_n.
        visited: whether it is a state of its own for each sample, not a repetition of a frozen one.
        lost: whether each sample had diverged before it could reach z_n.
    """

    index: int
    state: Float[Tensor, "batch *state"]
    visited: Bool[Tensor, "batch"]
    lost: Bool[Tensor, "batch"]


class Tape:
    """A cell that records its graph at every state where it is evaluated, in order."""

    def __init__(self, cell: BoundCell) -> None:
        self._cell = cell
        self._recorded: dict[int, Linearization] = {}

    def __call__(self, z: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
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
        u: Float[Tensor, "batch *injection"],
        cell: BoundCell,
        initial: Float[Tensor, "batch *state"],
        solver: Solver,
        tail: Unroll,
        until: int | None = None,
        record: bool = False,
        record_tail: bool = True,
    ) -> None:
        self.u, self.cell, self.initial, self.tail = u, cell, initial, tail
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
        """The cell at z_n: as it was recorded, which is given up, or evaluated again."""
        return self._tape.take(n) or Linearization(self.cell, self.state(n))

    def state(self, n: int) -> Float[Tensor, "batch *state"]:
        """z_n, n from 0 to N + 1 (the final state), without graph."""
        return self.final if n > self.trajectory.max_steps else self.trajectory.state(n)

    @cached_property
    def start(self) -> Float[Tensor, "batch *state"]:
        """Where the tail starts: z* or f(z*)."""
        t = self.trajectory
        return (t.best_value if self.tail.from_image else t.solution).view(t.shape)

    @cached_property
    @torch.no_grad()
    def _tail_states(self) -> list[Float[Tensor, "batch *state"]]:
        """Every state of the tail, from where it starts to z_{N+1}."""
        if self._record_tail:
            return [*self.tail.walk(self._tail_tape, self.start)]
        known = None if self.tail.from_image else self.trajectory.best_value.view(self.trajectory.shape)
        return [*self.tail.walk(self.cell, self.start, known)]

    @property
    def final(self) -> Float[Tensor, "batch *state"]:
        """z_{N+1}, without graph."""
        return self._tail_states[-1]

    def pull_back_tail(
        self, cotangent: Float[Tensor, "batch dim"], to: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "batch dim"], list[Tensor]]:
        """Pull a cotangent of the final state back through the tail; recorded graphs are given up.

        Args:
            cotangent: of z_{N+1}.
            to: tensors that f depends on.

        Returns:
            The cotangents of where the tail starts and of each tensor of `to`.
        """
        totals = [torch.zeros_like(tensor) for tensor in to]
        for step, state in reversed([*enumerate(self._tail_states[:-1])]):
            linearization = self._tail_tape.take(step) or Linearization(self.cell, state)
            through_cell, parts = linearization.vjp(self.tail.damping * cotangent, to)
            totals = [total + part for total, part in zip(totals, parts, strict=True)]
            cotangent = (1 - self.tail.damping) * cotangent + through_cell
        return cotangent, totals

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
