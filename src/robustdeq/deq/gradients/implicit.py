"""Implicit gradients: (∂f/∂x) u at z*, where u estimates (I − Jᵀ)⁻¹ ∂L/∂z (Eqs. 2, 3).

The loss is read at the final state, on which the model is judged. At z* it would belong to other logits, and would
overrate a model that does not converge. SHINE exists at intermediate states too (Appendix D).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import require
from robustdeq.base.shapes import Flat, State
from robustdeq.deq.cell import Linearization
from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.solve import Solution, attach
from robustdeq.deq.tail import Unroll
from robustdeq.solvers import Broyden


class Implicit(StateGradient):
    """Reads the loss at the final state and pulls it back through one application of the cell at z*."""

    def places(self, solution: Solution) -> tuple[State, State]:
        """The state at which the loss is read, and the one at which the cell is linearised."""
        trajectory = solution.trajectory
        return solution.final, trajectory.solution.view(trajectory.shape)

    @abstractmethod
    def adjoint(self, solution: Solution, linearization: Linearization, c: Flat) -> Flat:
        """The estimate u of (I − Jᵀ)⁻¹ c, with J linearised at z*."""

    @property
    def products(self) -> int:
        """How many products with Jᵀ the estimate takes at most."""
        return 0

    @override
    def evaluations(self, deq: DEQ) -> int:
        return deq.evaluations(self.until(deq)) + 1 + 2 * (self.products + 1)

    @override
    def reads_final(self, tail: Unroll) -> bool:
        return True

    @override
    def read(self, solution: Solution) -> State:
        state, linearized_at = self.places(solution)
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in solution.cell.tensors)):
            return state
        linearization = Linearization(solution.cell, linearized_at)

        def pull_back(cotangent: Tensor, tensors: tuple[Tensor, ...]) -> Sequence[Tensor]:
            u = self.adjoint(solution, linearization, cotangent.flatten(1))
            return linearization.tensor_vjp(u, tensors, retain=True)

        return attach(state, pull_back, solution.cell.tensors)


@dataclass(frozen=True)
class Exact(Implicit):
    """u = Jᵀ u + c solved by Broyden's method (Eqs. 2, 3): exact where the solver has reached the fixed point.

    Args:
        max_steps: the most steps of the backward solver.
        tol: its relative tolerance.
    """

    max_steps: int = 50
    tol: float = 1e-6

    def __post_init__(self) -> None:
        self._solver  # noqa: B018

    @property
    @override
    def label(self) -> str:
        return f"exact, {self.max_steps} steps"

    @property
    def _solver(self) -> Broyden:
        return Broyden(max_steps=self.max_steps, tol=self.tol)

    @property
    @override
    def products(self) -> int:
        return self.max_steps + 1

    @override
    def adjoint(self, solution: Solution, linearization: Linearization, c: Tensor) -> Tensor:
        return self._solver.solve(lambda u: linearization.vjp(u, retain=True)[0] + c, c.new_zeros(c.shape)).solution


@dataclass(frozen=True)
class SHINE(Implicit):
    """u = −B_nᵀ c: the forward solver's inverse estimate instead of a solve (Ramzi et al., ICLR 2022; App. D).

    Args:
        state: n, from 1 to N: c is read at z_n, and the cell linearised there. None reads the final state, with B_N and
            the cell at z*.
    """

    title: ClassVar[str] = "SHINE"

    state: int | None = None

    @property
    @override
    def label(self) -> str:
        return self.title if self.state is None else f"{self.title}, z_{self.state}"

    @override
    def check(self, deq: DEQ) -> None:
        deq.solver.check_inverse()
        if self.state is not None:
            last = deq.solver.max_steps
            require(1 <= self.state <= last, f"the solver holds no estimate at state {self.state}; give 1 to {last}.")

    @override
    def until(self, deq: DEQ) -> int | None:
        return None if self.state is None else self.state + 1

    @override
    def reads_final(self, tail: Unroll) -> bool:
        return self.state is None

    @override
    def places(self, solution: Solution) -> tuple[State, State]:
        if self.state is None:
            return super().places(solution)
        state = solution.state(self.state)
        return state, state

    @override
    def adjoint(self, solution: Solution, linearization: Linearization, c: Tensor) -> Tensor:
        trajectory = solution.trajectory
        n = trajectory.max_steps if self.state is None else self.state
        return -trajectory.inverse(n).rmatvec(c)


@dataclass(frozen=True)
class JacobianFree(Implicit):
    """u = c: the inverse replaced by the identity (Fung et al., "JFB: Jacobian-free backpropagation", AAAI 2022)."""

    title: ClassVar[str] = "Jacobian-free"

    @override
    def adjoint(self, solution: Solution, linearization: Linearization, c: Tensor) -> Tensor:
        return c
