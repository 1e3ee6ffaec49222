"""The slow-down attack: an input on which the solver is far from done when its steps are used up.

It climbs log ‖f(z_N) − z_N‖ / ‖f(z_N)‖, the relative residual of the last state of the solver, through the solver. A
model that iterates to a tolerance pays for it in steps, one with a fixed budget in where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from typing_extensions import override

from robustdeq.attacks.base import deq_behind
from robustdeq.attacks.pgd import PGD, finite_or_zero
from robustdeq.base.derivative import derivative
from robustdeq.base.shapes import PerSample, Pixels
from robustdeq.deq.defenses import EarlyState
from robustdeq.deq.gradients import ThroughSolver
from robustdeq.deq.model import DEQ, Loss
from robustdeq.deq.modes import frozen


@dataclass(frozen=True)
class SlowDown(PGD):
    """PGD on the residual of the solve instead of a loss of the logits; settings as for `PGD`.

    It attacks a DEQ, or the DEQ behind a `Surrogate` or `Defended`, whose gradient plays no part.
    """

    @property
    @override
    def label(self) -> str:
        return f"slow-down, {self.effort}"

    @property
    @override
    def climbs(self) -> str:
        return "the residual of the solve"

    @override
    def run(self, surrogate: nn.Module, x: Pixels, start: Pixels, loss: Loss) -> Pixels:
        """Climb from `start` and return the last iterate; a sample without a finite gradient stays where it is."""
        deq = deq_behind(surrogate)
        with frozen(deq):
            for _ in range(self.steps):
                leaf = start.detach().requires_grad_()
                with torch.enable_grad():
                    height = log_residual(deq, leaf)
                    gradient = finite_or_zero(derivative(height.sum(), leaf))
                start = self.step(leaf.detach(), gradient, x)
        return start


def log_residual(deq: DEQ, x: Pixels) -> PerSample:
    """Log ‖f(z_N) − z_N‖ / ‖f(z_N)‖ of each sample, with its gradient through the solver.

    Args:
        deq: the model.
        x: the inputs.
    """
    last = deq.last_state - 1
    solution = deq.solution(x, until=last, record=True)
    state = ThroughSolver(EarlyState(last)).read(solution)
    value = solution.cell(state)
    off, size = ((part.flatten(1).norm(dim=1)).clamp_min(torch.finfo(x.dtype).tiny) for part in (value - state, value))
    return off.log() - size.log()
