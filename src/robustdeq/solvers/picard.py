"""Damped Picard iteration: z_{n+1} = z_n + τ (f(z_n) − z_n), the T-layer network of Eq. 1 where τ = 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import require
from robustdeq.base.shapes import Flat
from robustdeq.solvers.base import Solver, Trajectory
from robustdeq.solvers.inverse import InverseJacobian
from robustdeq.solvers.memory import Memory, Products, Window


class _LastResidual(Memory):
    """g_n, which becomes s_n, behind as many increments as are to be kept."""

    def __init__(self, damping: float, initial: Tensor, kept: int) -> None:
        self._damping = damping
        self._kept = kept
        self.window = Window(initial, kept + 1)

    def receive(self, value: Tensor, state: Tensor) -> Tensor:
        return torch.sub(value, state, out=self.window.slot())

    def propose(self) -> Tensor:
        return self.window.slot().mul_(self._damping)

    def commit(self, shortenings: Tensor | None) -> None:
        self.window.push(self._kept)


@dataclass(frozen=True)
class Picard(Solver):
    """Fixed-point iteration with damping.

    `max_steps`, `tol`, `stop`, `result` and `divergence` are those of every `Solver`.

    Args:
        damping: τ in (0, 1]; 1 is plain iteration.

    Raises:
        InputError: a setting is out of its range.
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.damping <= 1, f"damping is {self.damping}; give a number in (0, 1].")

    @override
    def memory(self, initial: Flat, keep: bool) -> Memory:
        return _LastResidual(self.damping, initial, self.max_steps if keep else 0)

    @override
    def window(self, step: int) -> tuple[range, range]:
        return range(0), range(step, step + 1)

    @override
    def coefficients(self, products: Products, shortenings: Tensor | None) -> tuple[Tensor, Tensor]:
        batch = len(products.residuals)
        return products.increments.new_zeros(batch, 0), products.residuals.new_full((batch, 1), self.damping)

    @override
    def inverse(self, trajectory: Trajectory, n: int) -> InverseJacobian:
        return _Scaled(-self.damping)


@dataclass(frozen=True)
class _Scaled(InverseJacobian):
    """B = factor · I."""

    factor: float

    def matvec(self, v: Flat) -> Flat:
        return torch.mul(v, self.factor)

    rmatvec = matvec
