"""Anderson acceleration: the next state mixes the last m states so that the mixed residual is small.

With weights a that minimise ‖Σ_i a_i g_i‖² + ridge ‖a‖² under Σ_i a_i = 1,

    z_{n+1} = Σ_i a_i (z_i + β g_i),

(Walker and Ni, "Anderson acceleration for fixed-point iterations", 2011), which in increments reads
s_n = β Σ_i a_i g_i − Σ_j (Σ_{i ≤ j} a_i) s_j.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import require
from robustdeq.base.shapes import Flat
from robustdeq.solvers.base import Solver
from robustdeq.solvers.inverse import add_combination, combine
from robustdeq.solvers.memory import Memory, Products, Window


class _Mixture(Memory):
    """The last m residuals and the increments between their states."""

    def __init__(self, solver: Anderson, initial: Tensor, keep: bool) -> None:
        self._solver = solver
        rows = solver.max_steps + 1 if keep else 2 * solver.history
        self.window = Window(initial, rows)
        self._residuals = Window(initial, rows)

    def receive(self, value: Tensor, state: Tensor) -> Tensor:
        residual = torch.sub(value, state, out=self._residuals.slot())
        self._residuals.push(self._solver.history)
        return residual

    def propose(self) -> Tensor:
        slot = self.window.slot()
        increments, residuals = self.window.vectors, self._residuals.vectors
        on_increments, on_residuals = self._solver.coefficients(Products.of(increments, residuals), None)
        return add_combination(slot.copy_(combine(on_residuals, residuals)), on_increments, increments)

    def commit(self, shortenings: Tensor | None) -> None:
        self.window.push(self._solver.history - 1)

    def residual_vectors(self) -> Tensor:
        return self._residuals.buffer[: self._residuals.stop]


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration.

    `max_steps`, `tol`, `stop`, `result` and `divergence` are those of every `Solver`.

    Args:
        history: m, how many residuals are mixed.
        mixing: β, how far the mixture moves along its residual.
        ridge: the regularisation of the weights, absolute.

    Raises:
        InputError: a setting is out of its range.
    """

    history: int = 6
    mixing: float = 1.0
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.history >= 1, f"history is {self.history}; Anderson mixes at least 1 residual.")
        require(self.mixing > 0, f"mixing is {self.mixing}; give a positive number.")
        require(self.ridge >= 0, f"ridge is {self.ridge}; give 0 or a positive number.")

    @override
    def memory(self, initial: Flat, keep: bool) -> Memory:
        return _Mixture(self, initial, keep)

    @override
    def window(self, step: int) -> tuple[range, range]:
        first = max(0, step + 1 - self.history)
        return range(first, step), range(first, step + 1)

    @override
    def coefficients(
        self, products: Products, shortenings: Tensor | None
    ) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch q"]]:
        gram = products.residuals
        size = gram.shape[1]
        eye = torch.eye(size, dtype=gram.dtype, device=gram.device)
        matrix = gram + self.ridge * eye
        weights, singular = _weights(matrix.detach())
        if gram.requires_grad:
            weights, _ = _weights(torch.where(singular[:, :, None], eye, matrix))
        weights = torch.where(singular, eye[-1], weights)
        return -weights.cumsum(dim=1)[:, :-1], self.mixing * weights


def _weights(gram: Float[Tensor, "batch q q"]) -> tuple[Float[Tensor, "batch q"], Bool[Tensor, "batch one"]]:
    """The weights a of these Gram matrices, and whether there are none: those of parallel residuals are singular."""
    weights, info = torch.linalg.solve_ex(gram, gram.new_ones(gram.shape[:2]))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights, (info != 0)[:, None] | ~weights.isfinite().all(dim=1, keepdim=True)
