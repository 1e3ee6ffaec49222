"""The simultaneous adjoint (paper, §4.1): an adjoint state that is updated along with the forward solve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.base.derivative import derivative
from robustdeq.base.errors import require
from robustdeq.base.shapes import Injected, Logits, Pixels
from robustdeq.deq.gradients.base import Family
from robustdeq.deq.model import DEQ, Loss, total_loss
from robustdeq.deq.solve import Solution, attach


@dataclass(frozen=True)
class SimultaneousAdjoint(Family):
    """The gradient (∂f(z_n)/∂x) u_n (Eq. 11) of an adjoint state that follows the trajectory (Eqs. 9, 10).

        u_0 = 0,   v_k = J(z_k)ᵀ u_k + ∂L(z_k)/∂z − u_k,   u_{k+1} = u_k − β B_kᵀ v_k.

    v is the residual of a linear system with Jacobian Jᵀ − I, to which B_kᵀ belongs; the paper writes B_k.

    Args:
        state: n, from 1 to N + 1; None for N + 1, the final state.
        step_size: β.
        transpose: B_kᵀ (True) or, as in the paper's Eq. 10, B_k (False).

    Raises:
        InputError: a setting is out of its range, or the solver keeps no inverse estimate.
    """

    step_size: float = 1.0
    transpose: bool = True

    def __post_init__(self) -> None:
        require(self.step_size > 0, f"step_size is {self.step_size}; give a positive number.")

    @override
    def check(self, deq: DEQ) -> None:
        super().check(deq)
        deq.solver.check_inverse()

    @property
    @override
    def label(self) -> str:
        return "simultaneous adjoint, u_{N+1}" if self.state is None else f"simultaneous adjoint, u_{self.state}"

    @override
    def recorded_solution(self, deq: DEQ, x: Pixels, until: int | None) -> Solution:
        return deq.solution(x, until=until, record=True, record_tail=False)

    @override
    def evaluations(self, deq: DEQ) -> int:
        return deq.evaluations(self.state) + 1 + 2 * self._target(deq)

    @override
    def sweep_evaluations(self, deq: DEQ) -> int:
        return deq.evaluations(None) + 1 + 2 * deq.last_state

    @override
    def sweep(self, deq: DEQ, solution: Solution, loss: Loss, states: range) -> Iterator[tuple[int, Injected]]:
        trajectory = solution.trajectory
        u = torch.zeros_like(trajectory.initial)
        for n in range(states[-1] + 1):
            linearization = None if n == 0 else solution.linearize(n)
            if linearization is not None and n == states[-1]:
                yield n, solution.on_injection(linearization.tensor_vjp(u, solution.made_of_u))
                return
            pulled = u
            if linearization is not None:
                pulled, parts = linearization.vjp(u, solution.made_of_u if n in states else ())
                if n in states:
                    yield n, solution.on_injection(parts)
            with torch.enable_grad():
                state = solution.state(n) if linearization is None else linearization.state
                state = state.detach().requires_grad_()
                c = derivative(total_loss(loss, deq.classify(solution.cell, state)), state).flatten(1)
            v = pulled + c - u
            inverse = trajectory.inverse(n)
            u = u - self.step_size * (inverse.rmatvec(v) if self.transpose else inverse.matvec(v))

    def _target(self, deq: DEQ) -> int:
        return deq.last_state if self.state is None else self.state

    @override
    def differentiate(self, deq: DEQ, x: Pixels, loss: Loss) -> Pixels:
        n = self._target(deq)
        solution = self.recorded_solution(deq, x, n)
        ((_, u_bar),) = self.sweep(deq, solution, loss, range(n, n + 1))
        return derivative(solution.u, x, u_bar)

    @override
    def logits(self, deq: DEQ, x: Pixels) -> Logits:
        n = self._target(deq)
        solution = self.recorded_solution(deq, x, n)

        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            ((_, u_bar),) = self.sweep(deq, solution, lambda logits: (logits * cotangent).sum(1), range(n, n + 1))
            return [u_bar]

        with torch.no_grad():
            logits = deq.classify(solution.cell, solution.state(n))
        return attach(logits, pull_back, (solution.u,))
