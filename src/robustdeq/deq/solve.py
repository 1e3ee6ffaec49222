"""One solve of a model, kept or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from robustdeq.deq.cell import BoundCell, Linearization
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Iteration, Trajectory
from robustdeq.solvers.base import Selection


@dataclass
class Solution:
    """One solve of a model: the injection with its graph, the bound cell, the trajectory, and how f was recorded.

    Attributes:
        u: the injection of x, attached to the graph of x.
        cell: the cell bound to u.
        initial: z_0, attached to u where it depends on it.
        tail: the model's tail.
        trajectory: the states.
        tape: f at z_0, z_1, … with its graph, as far as it was recorded.
        tail_states: where the tail evaluated f, if it was run to be gone back along.
        tail_tape: f there with its graph, as far as it was recorded.
    """

    u: Float[Tensor, "batch *injection"]
    cell: BoundCell
    initial: Float[Tensor, "batch *state"]
    tail: Unroll
    trajectory: Trajectory
    tape: dict[int, Linearization] = field(default_factory=dict)
    tail_states: list[Float[Tensor, "batch *state"]] = field(default_factory=list)
    tail_tape: dict[int, Linearization] = field(default_factory=dict)

    def linearize(self, n: int) -> Linearization:
        """The cell at z_n: from the tape, which gives it up, or evaluated again."""
        return self.tape.pop(n, None) or Linearization(self.cell, self.state(n))

    def state(self, n: int) -> Float[Tensor, "batch *state"]:
        """z_n, n from 0 to N + 1 (the final state), without graph."""
        return self.final if n > self.trajectory.max_steps else self.trajectory.state(n)

    @cached_property
    def start(self) -> Float[Tensor, "batch *state"]:
        """Where the tail starts: z* or f(z*)."""
        t = self.trajectory
        return (t.best_value if self.tail.from_image else t.solution).view(t.shape)

    def run_tail(self, record: bool) -> None:
        """Compute the final state, and keep the states of the tail so that `pull_back_tail` can go back along them.

        Args:
            record: keep the graphs of f there too.
        """
        state, known = self.start, not record and not self.tail.from_image
        for step in range(self.tail.steps):
            self.tail_states.append(state)
            if record:
                latest = self.tail_tape[step] = Linearization(self.cell, state)
                value = latest.value
            elif step == 0 and known:
                value = self.trajectory.best_value.view_as(state)
            else:
                with torch.no_grad():
                    value = self.cell(state)
            state = torch.lerp(state, value, self.tail.damping)
        self.final = state

    def pull_back_tail(
        self, cotangent: Float[Tensor, "batch dim"], to: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "batch dim"], list[Tensor]]:
        """Pull a cotangent of the final state back through the tail that was run; recorded graphs are given up.

        Args:
            cotangent: of z_{N+1}.
            to: tensors that f depends on.

        Returns:
            The cotangents of where the tail starts and of each tensor of `to`.
        """
        totals = [torch.zeros_like(tensor) for tensor in to]
        for step, state in reversed([*enumerate(self.tail_states)]):
            linearization = self.tail_tape.pop(step, None) or Linearization(self.cell, state)
            through_cell, parts = linearization.vjp(self.tail.damping * cotangent, to)
            totals = [total + part for total, part in zip(totals, parts, strict=True)]
            cotangent = (1 - self.tail.damping) * cotangent + through_cell
        return cotangent, totals

    @cached_property
    def final(self) -> Float[Tensor, "batch *state"]:
        """z_{N+1}, without graph."""
        t = self.trajectory
        with torch.no_grad():
            return self.tail.finish(self.cell, self.start.flatten(1), t.best_value, t.shape).view(t.shape)


class StateStream:
    """The states z_1, …, z_N, z_{N+1} of one solve, in order, each with the samples for which it is a new state.

    Holds O(1) states: the current one, z* so far, and what the solver itself remembers.
    """

    def __init__(self, run: Iteration, cell: BoundCell, tail: Unroll, shape: torch.Size) -> None:
        self._run, self._cell, self._tail, self._shape = run, cell, tail, shape

    @property
    def diverged(self) -> Tensor:
        """The samples that have diverged so far, (B,)."""
        return self._run.diverged

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (n, z_n in the shape of a state, visited (B,)); f(z_n) is evaluated only when n + 1 is asked for."""
        selection = Selection(self._run.solver, states=not self._tail.from_image)
        n, state = 0, self._run.initial
        for iterate in self._run:
            n, state = iterate.index, iterate.state
            if n > 0:
                yield n, state.view(self._shape), iterate.visited
            selection.add(iterate)
        for repeated in range(n + 1, self._run.solver.max_steps + 1):
            yield repeated, state.view(self._shape), torch.zeros_like(self.diverged)
        start = selection.value if selection.state is None else selection.state
        final = self._tail.finish(self._cell, start, selection.value, self._shape)
        yield self._run.solver.max_steps + 1, final.view(self._shape), torch.ones_like(self.diverged)
