"""The inverse-Jacobian estimate B_n as a function of the visited states alone.

Broyden's update (Eq. 8) with step sizes α_j and s_j = z_{j+1} − z_j = −α_j B_j g_j telescopes to

    B_{j+1} = (I + u_j s_jᵀ) B_j, B_0 = −I,
    u_j = ((α_j / α_{j+1}) s_{j+1} + (α_j − 1) s_j) / ‖s_j‖²

(Kelley, *Iterative Methods for Linear and Nonlinear Equations*, ch. 7, where α = 1). A product B_n v therefore costs
two passes over the increments and a triangular solve with their Gram matrix, and needs no memory but the increments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from robustdeq.base.shapes import Flat


class InverseJacobian(ABC):
    """An estimate B of the inverse Jacobian of g(z) = f(z) − z, as a linear operator per sample."""

    @abstractmethod
    def matvec(self, v: Flat) -> Flat:
        """B v."""

    @abstractmethod
    def rmatvec(self, v: Flat) -> Flat:
        """Bᵀ v."""


def inner(vectors: Float[Tensor, "count batch dim"], v: Flat) -> Float[Tensor, "batch count"]:
    """The inner products of v with each of the vectors, per sample."""
    return torch.bmm(v[:, None], vectors.permute(1, 2, 0))[:, 0]


def combine(weights: Float[Tensor, "batch count"], vectors: Float[Tensor, "count batch dim"]) -> Flat:
    """The weighted sum of the vectors, per sample."""
    return torch.bmm(weights[:, None], vectors.transpose(0, 1))[:, 0]


def add_combination(
    target: Flat, weights: Float[Tensor, "batch count"], vectors: Float[Tensor, "count batch dim"]
) -> Flat:
    """Add the weighted sum of the vectors to `target`, in place, and return it."""
    target[:, None].baddbmm_(weights[:, None], vectors.transpose(0, 1))
    return target


@dataclass(frozen=True, eq=False)
class Updates:
    """The rank-one updates u_j = ahead_j s_{j+1} + here_j s_j of the increments s_0 … s_m, j = 0 … m − 1.

    `triangle` is I − L with L_kj = ⟨s_k, u_j⟩ for j < k: the matrix of the recursion for ⟨s_k, B_k v⟩, k = 0 … m.
    """

    ahead: Float[Tensor, "batch m"]
    here: Float[Tensor, "batch m"]
    triangle: Float[Tensor, "batch m_plus_1 m_plus_1"]

    @staticmethod
    def of(
        gram: Float[Tensor, "batch m_plus_1 m_plus_1"],
        step_sizes: Float[Tensor, "batch m_plus_1"] | float,
        held: Bool[Tensor, "batch m"] | None = None,
    ) -> Updates:
        """The updates of increments with this Gram matrix, taken with these step sizes; none after a zero increment.

        Args:
            gram: ⟨s_i, s_j⟩.
            step_sizes: α_j, or one α for all.
            held: which of the updates each sample's B holds; None for all of them.
        """
        norms = gram.diagonal(dim1=1, dim2=2)[:, :-1]
        inverse_norms = torch.where(norms > 0, 1 / torch.where(norms > 0, norms, 1), 0)
        if not isinstance(step_sizes, Tensor):
            ahead, here = inverse_norms, (step_sizes - 1) * inverse_norms
        else:
            alpha = step_sizes[:, :-1]
            ahead, here = alpha / step_sizes[:, 1:] * inverse_norms, (alpha - 1) * inverse_norms
        if held is not None:
            ahead, here = ahead * held, here * held
        tested = ahead[:, None] * gram[:, :, 1:] + here[:, None] * gram[:, :, :-1]
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        return Updates(ahead, here, eye - pad(tested, (0, 1)).tril(-1))

    def project(self, products: Float[Tensor, "batch m_plus_1"]) -> Float[Tensor, "batch m_plus_1"]:
        """⟨s_k, B_k v⟩ for k = 0 … m, from the products ⟨s_k, v⟩."""
        right = -products[:, :, None]
        return torch.linalg.solve_triangular(self.triangle, right, upper=False, unitriangular=True)[:, :, 0]

    def project_transposed(self, products: Float[Tensor, "batch m_plus_1"]) -> Float[Tensor, "batch m"]:
        """⟨u_j, v_j⟩ for j = 0 … m − 1, where v_j is v after the transposed updates beyond j, from ⟨s_k, v⟩."""
        tested = self.ahead * products[:, 1:] + self.here * products[:, :-1]
        upper = self.triangle[:, :-1, :-1].mT
        return torch.linalg.solve_triangular(upper, tested[:, :, None], upper=True, unitriangular=True)[:, :, 0]

    def expand(self, c: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m_plus_1"]:
        """The weights of Σ_j c_j u_j on s_0 … s_m."""
        return pad(self.here * c, (0, 1)) + pad(self.ahead * c, (1, 0))


@dataclass(frozen=True, eq=False)
class BroydenInverse(InverseJacobian):
    """B_n of one trajectory.

    `increments` are those that B_n rests on, the last of them the one the solver took, or would have taken, from z_n.
    """

    increments: Float[Tensor, "m_plus_1 batch dim"]
    updates: Updates

    @override
    def matvec(self, v: Flat) -> Flat:
        c = self.updates.project(inner(self.increments, v))[:, :-1]
        return combine(self.updates.expand(c), self.increments) - v

    @override
    def rmatvec(self, v: Flat) -> Flat:
        c = self.updates.project_transposed(inner(self.increments, v))
        return -v - combine(c, self.increments[:-1])
