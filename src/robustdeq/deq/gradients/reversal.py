"""The gradient through a reversible solve, which undoes it step by step: exact, and in the memory of a single state.

With (ȳ, z̄) the cotangents after a step, those before it are (McCallum, Arora and Foster, 2025, Section 3)

    ȳ ← ȳ + β J_f(y')ᵀ z̄,    z̄ ← (1 − β) z̄ + β J_f(z)ᵀ ȳ,    ȳ ← (1 − β) ȳ,

with f evaluated at y' and z, which undoes the step too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.base.shapes import State
from robustdeq.deq.cell import Execution, Linearization
from robustdeq.deq.defenses import FinalState
from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.reversible import Reversible, ReversibleCell
from robustdeq.deq.solve import Solution, attach
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Picard

_LOST = 1e-3
"""How far from the initial state, relative to the final one, a sample's undone solve may end if it did not diverge."""


@dataclass(frozen=True)
class Reversed(StateGradient):
    """The gradient through all steps of a reversible DEQ, which `rd.models.reversible` makes of any."""

    title = "through the reversible solve, undone"

    @override
    def true_of(self, defense: object) -> bool:
        return defense == FinalState()

    @override
    def check(self, deq: DEQ) -> None:
        fixed = Picard(deq.solver.max_steps, tol=0.0, result="last", divergence=deq.solver.divergence)
        plain = deq.solver == fixed and self.reads_final(deq.tail)
        if not (isinstance(deq.cell, Reversible) and plain and deq.execution == Execution()):
            raise InputError("this solve cannot be undone; make the model with `rd.models.reversible`.")

    @override
    def evaluations(self, deq: DEQ) -> int:
        return 4 * (deq.solver.max_steps + deq.tail.steps)

    @override
    def reads_final(self, tail: Unroll) -> bool:
        return not tail.from_image and (not tail.steps or tail.damping == 1.0)

    @override
    def read(self, solution: Solution) -> State:
        cell = solution.cell
        if not isinstance(cell, ReversibleCell):
            raise InputError("this solve cannot be undone; make the model with `rd.models.reversible`.")
        steps, state = solution.solver.max_steps + solution.tail.steps, solution.initial.detach()
        with torch.no_grad():
            for _ in range(steps):
                state = cell(state)

        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            through_cell = tuple(tensor for tensor in tensors if tensor is not solution.initial)
            start, on_initial, found = _undone(cell, state, cotangent, steps, through_cell)
            missed, size = (part.flatten(1).norm(dim=1) for part in (start - solution.initial, state))
            off = float((missed / size.clamp_min(1e-30)).masked_fill(~size.isfinite(), 0).max())
            if not off < _LOST:
                raise InputError(
                    f"undoing {steps} steps misses the state they began in by {off:.1g} of the last one: rounding is "
                    "divided by 1 − damping in each of them; take fewer steps or a smaller damping."
                )
            parts = dict(zip(map(id, through_cell), found, strict=True)) | {id(solution.initial): on_initial}
            return [parts[id(tensor)] for tensor in tensors]

        return attach(state, pull_back, (*cell.tensors, solution.initial))


def _undone(
    cell: ReversibleCell, state: State, cotangent: State, steps: int, tensors: tuple[Tensor, ...]
) -> tuple[State, State, list[Tensor]]:
    """The initial state, its cotangent and those of the tensors, given the final state and its cotangent."""
    beta, structure = cell.damping, cell.structure
    (y, z), (on_y, on_z) = structure.unpack(state), structure.unpack(cotangent)
    totals = [torch.zeros_like(tensor) for tensor in tensors]

    def undo(at: Tensor, other: Tensor, on_value: Tensor) -> tuple[Tensor, Tensor]:
        """What `other` was before f of `at` was added, and the cotangent that this sends to `at`."""
        linear = Linearization(cell.inner, at.to(cell.dtype))
        on_state, parts = linear.vjp(beta * on_value.flatten(1).to(cell.dtype), tensors)
        totals[:] = [total + part for total, part in zip(totals, parts, strict=True)]
        return (other - beta * linear.value.double()) / (1 - beta), on_state.view_as(at).double()

    for _ in range(steps):
        z, sent = undo(y, z, on_z)
        on_y = on_y + sent
        y, sent = undo(z, y, on_y)
        on_y, on_z = (1 - beta) * on_y, (1 - beta) * on_z + sent
    return structure.pack((y, z)), structure.pack((on_y, on_z)), totals
