"""Reversible DEQs: a step that can be undone, so that an exact gradient needs no state but the last.

Two states lead each other to the fixed point of f (McCallum, Arora and Foster, "Reversible deep equilibrium models",
arXiv 2509.12917, 2025):

    y' = (1 − β) y + β f(z),    z' = (1 − β) z + β f(y'),

and back, z = (z' − β f(y')) / (1 − β), y = (y' − β f(z)) / (1 − β). Where they rest, y = z = f(z). Each step back
divides what rounding has left by 1 − β, and f may stretch it; so states are kept in double precision, whatever f is
evaluated in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeq.base.errors import require
from robustdeq.deq.cell import BoundCell, bind, initial_state
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Picard

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class ReversibleCell(BoundCell):
    """A step of both states, bound to an input.

    Attributes:
        inner: f.
        damping: β.
        dtype: the precision that f is evaluated in.
    """

    inner: BoundCell
    damping: float
    dtype: torch.dtype


class Reversible(nn.Module):
    """The cell of a reversible DEQ: (y, z) → (y', z').

    Args:
        cell: f, on states of one tensor.
        damping: β in (0, 1).

    Raises:
        InputError: β is out of its range.
    """

    def __init__(self, cell: nn.Module, damping: float = 0.5) -> None:
        super().__init__()
        require(0 < damping < 1, f"damping is {damping}; give a number in (0, 1), without its ends.")
        self.cell, self.damping = cell, damping

    def initial_state(self, u: Tensor) -> Pair:
        """The z_0 of f, twice; raises `InputError` where it is several tensors."""
        start = initial_state(self.cell, u)
        require(isinstance(start, Tensor), "the state is several tensors; make it one, and the step can be undone.")
        return start.double(), start.double()

    def bind(self, u: Tensor) -> ReversibleCell:
        """One step for an injection; f is evaluated twice in it."""
        return self._step_of(bind(self.cell, u), u.dtype)

    def _step_of(self, inner: BoundCell, dtype: torch.dtype) -> ReversibleCell:
        damping = self.damping

        def step(state: Pair) -> Pair:
            y, z = state
            y = y.lerp(inner(z.to(dtype)).double(), damping)
            return y, z.lerp(inner(y.to(dtype)).double(), damping)

        apart = None if inner.apart is None else self._step_of(inner.apart, dtype)
        return ReversibleCell(step, inner.tensors, apart=apart, inner=inner, damping=damping, dtype=dtype)


class Second(nn.Module):
    """What a head reads: z of (y, z), in the precision of the head."""

    like: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, state: Pair) -> Tensor:
        """The second of two states."""
        return state[1].to(self.like.dtype)


def reversible(deq: DEQ, steps: int = 8, damping: float = 0.5) -> DEQ:
    """The same injection, cell and head, solved by steps that can be undone; `Reversed` differentiates it.

    Args:
        deq: the model, which shares its weights.
        steps: N, the number of steps, with two evaluations of f each.
        damping: β in (0, 1).

    Raises:
        InputError: a setting is out of its range.
    """
    second = Second(next(deq.parameters(), torch.empty(0)).dtype)
    made = DEQ(
        deq.injection,
        Reversible(deq.cell, damping),
        nn.Sequential(second, deq.head),
        Picard(max_steps=steps, tol=0.0, result="last"),
        Unroll(0),
    )
    for part in (made, made.cell, made.head, second):
        part.training = deq.training
    return made
