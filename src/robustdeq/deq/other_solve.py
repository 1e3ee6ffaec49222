"""Another solve of the same model, to see whether adversaries for one solver fool what another one computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils._pytree import tree_map
from typing_extensions import override

from robustdeq.base.errors import require
from robustdeq.base.shapes import Logits, Pixels
from robustdeq.deq.cell import BoundCell, bind, initial_state
from robustdeq.deq.defenses import Defense, FinalState, as_deq
from robustdeq.deq.model import DEQ
from robustdeq.deq.structure import Tree
from robustdeq.solvers import Solver


@dataclass(frozen=True)
class OtherSolve(Defense):
    """The final state of another solve; where there are gradients, with the gradient through it.

    Args:
        name: what a table calls it.
        kind: the method, with the model's own steps and tolerance; None for the model's.
        steps: how many steps it takes, in multiples of the model's.
        offset: the standard deviation of what is added to z_0, the same for every sample.

    Raises:
        InputError: steps is not positive.
    """

    name: str
    kind: type[Solver] | None = None
    steps: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        require(self.steps > 0, f"steps is {self.steps}; give a positive multiple of the model's steps.")

    @property
    @override
    def label(self) -> str:
        return self.name

    def solver_of(self, deq: DEQ) -> Solver:
        """The solver that takes the place of the model's."""
        own = deq.solver
        if self.kind is not None:
            shared = ("tol", "stop", "result", "divergence")
            own = self.kind(own.max_steps, **{name: getattr(own, name) for name in shared})
        return replace(own, max_steps=max(1, round(self.steps * own.max_steps)))

    def model_of(self, deq: DEQ) -> DEQ:
        """The same weights, solved this way."""
        if self.offset == 0:
            return deq.with_settings(solver=self.solver_of(deq))
        cell = _FromElsewhere(deq.cell, self.offset)
        cell.training = deq.training
        other = DEQ(deq.injection, cell, deq.head, self.solver_of(deq), deq.tail, deq.gradient)
        other.training = deq.training
        return other.with_settings(execution=deq.execution)

    @override
    def logits(self, model: nn.Module, x: Pixels) -> Logits:
        return FinalState().logits(self.model_of(as_deq(model)), x)

    @override
    def check(self, model: nn.Module) -> None:
        as_deq(model)

    @override
    def evaluations(self, model: nn.Module) -> int:
        return self.model_of(as_deq(model)).evaluations(None)


class _FromElsewhere(nn.Module):
    """A cell that starts from a z_0 with an offset."""

    def __init__(self, cell: nn.Module, offset: float) -> None:
        super().__init__()
        self.cell, self.offset = cell, offset

    def bind(self, u: Tree) -> BoundCell:
        """As the cell."""
        return bind(self.cell, u)

    def initial_state(self, u: Tree) -> Tree:
        """The cell's z_0, and the same draw added to that of every sample."""
        draw = torch.Generator().manual_seed(0)

        def moved(z: torch.Tensor) -> torch.Tensor:
            return z + self.offset * torch.randn(z.shape[1:], generator=draw).to(z)

        return tree_map(moved, initial_state(self.cell, u))
