"""A defended model as a module: what an attack has to fool, and what an attack library may differentiate."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdeq.deq.defenses import Defense, defended_logits
from robustdeq.deq.gradients.solver import ThroughSolver
from robustdeq.deq.model import DEQ


class Defended(nn.Module):
    """A model x → logits that reads its states through a defense.

    Without gradients it keeps O(1) states; where a gradient is asked for, it is the true one, through the solver.

    Args:
        deq: the model.
        defense: the defense.

    Raises:
        InputError: the defense reads a state that the model does not have.
    """

    def __init__(self, deq: DEQ, defense: Defense) -> None:
        super().__init__()
        defense.check(deq)
        self.deq = deq
        self.defense = defense

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch classes"]:
        """The defended logits; nan for a sample whose solve diverged, which counts as an error of the defense."""
        if torch.is_grad_enabled():
            gradient = ThroughSolver(self.defense)
            solution = self.deq.solution(x, until=gradient.until(self.deq), record=gradient.records())
            logits = self.deq.head(gradient.read(solution))
            return logits.masked_fill(solution.trajectory.diverged[:, None], torch.nan)
        return defended_logits(self.deq, x, [self.defense])[0]
