"""The gradient ensemble (Eq. 17): the sum of a family's gradients over all states, in one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.base.derivative import derivative
from robustdeq.base.shapes import Logits, Pixels, per_sample
from robustdeq.deq.defenses import EnsembleState, Reader
from robustdeq.deq.gradients.base import Family
from robustdeq.deq.model import DEQ, Gradient, Loss
from robustdeq.deq.solve import Solution, attach


@dataclass(frozen=True)
class Ensemble(Gradient):
    """Σ_n [∂L/∂x]_n over the states each sample visited, z_1 … z_steps, and the final one.

    As a `Surrogate` its logits are those of the ensemble defense.

    Args:
        family: `SimultaneousAdjoint(...)` or `UnrolledIntermediate(...)`; its own state does not matter.
    """

    family: Family

    @property
    @override
    def label(self) -> str:
        return f"sum over all states ({self.family.label})"

    @override
    def check(self, deq: DEQ) -> None:
        replace(self.family, state=None).check(deq)

    @override
    def evaluations(self, deq: DEQ) -> int:
        return self.family.sweep_evaluations(deq)

    def _injection_gradient(self, deq: DEQ, solution: Solution, loss: Loss) -> Tensor:
        total = torch.zeros_like(solution.u)
        for n, u_bar in self.family.sweep(deq, solution, loss, range(1, deq.last_state + 1)):
            visited = per_sample(solution.trajectory.visited(n), u_bar)
            total = total + torch.where(visited, u_bar, 0)
        return total

    @override
    def differentiate(self, deq: DEQ, x: Pixels, loss: Loss) -> Pixels:
        solution = self.family.recorded_solution(deq, x, None)
        return derivative(solution.u, x, self._injection_gradient(deq, solution, loss))

    @override
    def logits(self, deq: DEQ, x: Pixels) -> Logits:
        solution = self.family.recorded_solution(deq, x, None)

        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return [self._injection_gradient(deq, solution, lambda logits: (logits * cotangent).sum(1))]

        with torch.no_grad():
            logits = deq.classify(solution.cell, Reader.of(EnsembleState(), solution).mean)
        return attach(logits, pull_back, (solution.u,))
