"""Defenses: which states of a trajectory are read (paper, §5.2).

Each reads a per-sample mean of states, z̄ = Σ_n ω_n z_n / Σ_n ω_n with ω_n ∈ {0, 1}, and applies the head to it; so a
defense is the rule for ω, computed in a stream with O(1) states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.deq.model import DEQ
from robustdeq.deq.solve import Solution
from robustdeq.solvers import Trajectory


class Defense(ABC):
    """A rule for the states that are read."""

    @abstractmethod
    def states(self, last: int) -> range:
        """The states that may be read, among 1 … N + 1; `last` is N + 1."""

    def reads(self, visited: Bool[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
        """ω_n of one of these states: whether a sample reads it.

        Args:
            visited: whether z_n is a state of its own for each sample, not a repetition of a frozen one.
        """
        return torch.ones_like(visited)

    def until(self, last: int) -> int:
        """The last state that is needed; the solve can return there."""
        return self.states(last)[-1]

    def check(self, deq: DEQ) -> None:
        """Raise `InputError` where the defense reads a state that the model does not have."""
        deq.check_state(self.until(deq.last_state))

    def weights(self, trajectory: Trajectory, last: int) -> dict[int, Float[Tensor, "batch"]]:
        """ω_n / Σ ω of every state that may be read, from a trajectory that reaches `until(last)`."""
        reads = {n: self.reads(trajectory.visited(n)).to(trajectory.initial.dtype) for n in self.states(last)}
        total = torch.stack(list(reads.values())).sum(dim=0)
        return {n: weight / total for n, weight in reads.items()}


@dataclass(frozen=True)
class FinalState(Defense):
    """The model as it is: the final state z_{N+1}."""

    @override
    def states(self, last: int) -> range:
        return range(last, last + 1)


@dataclass(frozen=True)
class EarlyState(Defense):
    """Early exit: the state z_n, n chosen once on a development set.

    Args:
        n: the state, 1 … N + 1.

    Raises:
        InputError: n < 1, or beyond N + 1 when it meets a model.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"state {self.n} cannot be an early state; choose n from 1 on.")

    @override
    def states(self, last: int) -> range:
        return range(self.n, self.n + 1)


@dataclass(frozen=True)
class EnsembleState(Defense):
    """The mean of the states a sample visited, z_1 … z_steps and the final one."""

    @override
    def states(self, last: int) -> range:
        return range(1, last + 1)

    @override
    def reads(self, visited: Bool[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
        return visited


@torch.no_grad()
def averaged_state(defense: Defense, solution: Solution) -> Float[Tensor, "batch *state"]:
    """The state z̄ that a defense reads from a kept trajectory, without graph."""
    trajectory = solution.trajectory
    weights = defense.weights(trajectory, trajectory.max_steps + 1)
    total = torch.zeros_like(trajectory.initial)
    for n, weight in weights.items():
        total = total + weight[:, None] * solution.state(n).flatten(1)
    return total.view(trajectory.shape)


@torch.no_grad()
def defended_logits(
    deq: DEQ, x: Float[Tensor, "batch *image"], defenses: Sequence[Defense]
) -> list[Float[Tensor, "batch classes"]]:
    """The logits of several defenses from one solve.

    Args:
        deq: the model.
        x: the inputs.
        defenses: the defenses; the solve stops at the last state that any of them needs.

    Returns:
        The logits of each. They are nan for a sample whose solve diverged: it counts as an error of the defense.

    Raises:
        InputError: a defense reads a state that the model does not have.
    """
    for defense in defenses:
        defense.check(deq)
    last = deq.last_state
    needed = max(defense.until(last) for defense in defenses)
    stream = deq.iterate(x, needed)
    sums: list[Tensor | None] = [None] * len(defenses)
    counts = torch.zeros(len(defenses), len(x), device=x.device, dtype=x.dtype)
    for n, state, visited in stream:
        for i, defense in enumerate(defenses):
            if n in defense.states(last):
                weight = defense.reads(visited).to(state.dtype)
                counts[i] += weight
                part = state * weight.view(-1, *[1] * (state.ndim - 1))
                total = sums[i]
                sums[i] = part if total is None else total + part
        if n == needed:
            break
    logits = []
    for total, count in zip(sums, counts, strict=True):
        assert total is not None
        mean = total / count.view(-1, *[1] * (total.ndim - 1))
        logits.append(deq.head(mean).masked_fill(stream.diverged[:, None], torch.nan))
    return logits


@torch.no_grad()
def state_logits(
    deq: DEQ, x: Float[Tensor, "batch *image"]
) -> tuple[Float[Tensor, "states batch classes"], Float[Tensor, "states batch"]]:
    """The logits of every state z_1 … z_{N+1}, and their relative residuals (paper, Figs. 2 and 4).

    Args:
        deq: the model.
        x: the inputs.

    Returns:
        The logits (nan for diverged samples) and ‖f(z_n) − z_n‖ / ‖f(z_n)‖.
    """
    solution = deq.solution(x)
    trajectory = solution.trajectory
    states = [*trajectory.states, solution.final.flatten(1)]
    logits = torch.stack([deq.head(state.view(trajectory.shape)) for state in states])
    value = solution.cell(solution.final)
    last = (value - solution.final).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    residuals = torch.cat([trajectory.residuals, last[None]])
    return logits.masked_fill(trajectory.diverged[None, :, None], torch.nan), residuals
