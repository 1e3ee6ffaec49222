"""Reverse mode through a solver's recursion.

An increment is s_n = Σ_i e_i s_i + Σ_k κ_k g_k with coefficients (e, κ) = c(P) of the inner products P. Given its
cotangent s̄_n, the cotangents of the coefficients are inner products, ē_i = ⟨s_i, s̄_n⟩ and κ̄_k = ⟨g_k, s̄_n⟩; they are
pulled back to P̄ through the small function c alone, and the vectors receive

    s̄_i += e_i s̄_n + Σ_j (P̄_ij + P̄_ji) s_j + Σ_k P̄_ik g_k,   ḡ_k += κ_k s̄_n + Σ_l (P̄_kl + P̄_lk) g_l + Σ_i P̄_ik s_i.

So the sweep needs the increments and one buffer of their size, and no graph of the solve.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robustdeq.base.shapes import Flat
from robustdeq.solvers.base import Trajectory
from robustdeq.solvers.inverse import inner
from robustdeq.solvers.memory import Products


class ReverseSweep:
    """Accumulates the cotangents of the increments while a sweep runs from the last step to the first.

    The choice of samples to freeze is a constant under differentiation, and so is the factor by which a line search
    shortens a step: it multiplies the cotangent of that step.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory
        vectors = trajectory.increments.transpose(0, 1)
        self._gram = torch.bmm(vectors, vectors.mT)
        self.increments: Float[Tensor, "max_steps batch dim"] = torch.zeros_like(trajectory.increments)

    def pull_back(
        self, n: int, cotangent: Flat, residuals: Float[Tensor, "q batch dim"]
    ) -> Float[Tensor, "q batch dim"]:
        """Pull the cotangent of s_n back to what s_n was made of.

        Args:
            n: the step.
            cotangent: s̄_n.
            residuals: the residuals in the solver's window at step n, oldest first.

        Returns:
            The contributions to the cotangents of these residuals; those of the increments are added to `increments`.
            A sample that took no such step contributes nothing, whatever its residuals are.
        """
        trajectory, solver = self._trajectory, self._trajectory.solver
        taken = (n < trajectory.steps)[:, None]
        cotangent, residuals = (torch.where(taken, vectors, 0) for vectors in (cotangent, residuals))
        window, _ = solver.window(n)
        rows = slice(window.start, window.stop)
        increments = trajectory.increments[rows]
        shortenings = None
        if trajectory.shortenings is not None:
            shortenings = trajectory.shortenings.T[:, rows]
            cotangent = trajectory.shortenings[n][:, None] * cotangent
        known = Products.of(increments, residuals, gram=self._gram[:, rows, rows])
        leaves = [part.detach().requires_grad_() for part in (known.increments, known.mixed, known.residuals)]
        with torch.enable_grad():
            weights = solver.coefficients(Products(*leaves), shortenings)
        incoming = (inner(increments, cotangent), inner(residuals, cotangent))
        differentiable = [(w, c) for w, c in zip(weights, incoming, strict=True) if w.requires_grad]
        pulled: list[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
        if differentiable:
            outputs, cotangents = zip(*differentiable, strict=True)
            found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
            pulled = [zero if part is None else part for zero, part in zip(pulled, found, strict=True)]
        on_gram, on_mixed, on_residuals = (torch.where(taken[:, None], part, 0) for part in pulled)
        on_increments, on_latest = (torch.where(taken, w.detach(), 0) for w in weights)
        s, g, v = increments.transpose(0, 1), residuals.transpose(0, 1), cotangent[:, None]
        target = self.increments[rows].transpose(0, 1)
        for coefficients, vectors in ((on_increments[:, :, None], v), (on_gram + on_gram.mT, s), (on_mixed, g)):
            target.baddbmm_(coefficients, vectors)
        made = on_latest[:, :, None] * v + torch.bmm(on_residuals + on_residuals.mT, g) + torch.bmm(on_mixed.mT, s)
        return made.transpose(0, 1)
