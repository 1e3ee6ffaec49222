"""Broyden's method (Eqs. 7, 8) in the form that keeps nothing but the increments.

With w = B_{n−1} g_n, d = ⟨s_{n−1}, w⟩, q = ‖s_{n−1}‖² and step size α, the update of Eq. 8 gives the next direction

    p_n = −B_n g_n = −(q w / α + (1 − 1/α) d s_{n−1}) / (d + q / α),   s_n = α p_n,

and B_n itself in terms of the increments (`inverse.py`). So s_n is a combination of g_n and s_0 … s_{n−1} whose
coefficients are a function of their inner products: two passes over the increments per step, where the usual form
stores U, V and the states and makes six.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from robustdeq.base.errors import InputError, require
from robustdeq.base.shapes import Flat, PerSample
from robustdeq.solvers.base import Function, Iterate, Solver, Trajectory
from robustdeq.solvers.inverse import BroydenInverse, InverseJacobian, Updates, add_combination
from robustdeq.solvers.memory import Memory, Products, Window

_SUFFICIENT_DECREASE = 1e-4


class _Increments(Memory):
    """s_j … s_{n−1}, behind them g_n, which becomes s_n; their Gram matrix; the factors of a line search."""

    def __init__(self, solver: Broyden, initial: Tensor, keep: bool) -> None:
        self._solver = solver
        self._keep = keep
        self._capacity = solver.capacity
        rows = solver.max_steps + 1 if keep else solver.capacity + 1
        self.window = Window(initial, rows)
        self._gram = initial.new_zeros(len(initial), rows, rows)
        self._searched: list[Tensor] = []

    def receive(self, value: Tensor, state: Tensor) -> Tensor:
        window = self.window
        if window.stop - window.start > self._capacity:
            window.start = window.stop = window.stop if self._keep else 0
        return torch.sub(value, state, out=window.buffer[window.stop])

    def propose(self) -> Tensor:
        start, stop = self.window.start, self.window.stop
        size = stop - start
        residual = self.window.buffer[stop]
        if size == 0:
            return residual.mul_(self._solver.step_size)
        vectors = self.window.buffer[start : stop + 1]
        fresh = torch.bmm(vectors[-2:].transpose(0, 1), vectors.permute(1, 2, 0))
        self._gram[:, start:stop, stop - 1] = self._gram[:, stop - 1, start:stop] = fresh[:, 0, :-1]
        products = Products(self._gram[:, start:stop, start:stop], fresh[:, 1:, :-1].mT, fresh[:, 1:, -1:])
        searched = torch.stack(self._searched[-size:], dim=1) if self._searched else None
        on_increments, on_residual = self._solver.coefficients(products, searched)
        return add_combination(residual.mul_(on_residual), on_increments, vectors[:-1])

    def commit(self, shortenings: Tensor | None) -> None:
        self.window.push(self._capacity + 1)
        if shortenings is not None:
            self._searched.append(shortenings)

    def shortenings(self) -> Tensor | None:
        if not self._searched:
            return None
        missing = self._solver.max_steps - len(self._searched)
        return torch.stack(self._searched + missing * [torch.ones_like(self._searched[0])])


class _FullSteps(_Increments):
    """The same for full steps, α = 1 and no line search, where the triangle of `Updates` grows by a row a step.

    With m = n − 1 and x_k = ⟨s_k, B_k g_n⟩ / ‖s_k‖², k = 0 … m,

        Σ_{j<k} ⟨s_k, s_{j+1}⟩ x_j − ‖s_k‖² x_k = ⟨s_k, g_n⟩,   s_n = (g_n − Σ_{j<m} x_j s_{j+1}) / (1 + x_m).
    """

    def __init__(self, solver: Broyden, initial: Tensor, keep: bool) -> None:
        super().__init__(solver, initial, keep)
        self._tiny, self._eps = torch.finfo(initial.dtype).tiny, torch.finfo(initial.dtype).eps
        self._by_sample = self.window.buffer.transpose(0, 1)

    def propose(self) -> Tensor:
        first, stop = self.window.start, self.window.stop
        residual, m = self.window.buffer[stop], stop - first - 1
        if m < 0:
            return residual
        vectors = self._by_sample[:, first : stop + 1]
        on_last, on_residual = torch.bmm(vectors[:, -2:], vectors.mT).unbind(1)
        row = self._gram[:, m]
        row[:, :m] = on_last[:, 1 : m + 1]
        torch.clamp_max(on_last[:, m].neg(), -self._tiny, out=row[:, m])
        triangle = self._gram[:, : m + 1, : m + 1]
        x = torch.linalg.solve_triangular(triangle, on_residual[:, : m + 1, None], upper=False)
        denominator = x[:, m] + 1
        if m > 0:
            residual[:, None].baddbmm_(x.mT[:, :, :m], vectors[:, 1:-1], alpha=-1)
        return residual.div_(denominator.abs().clamp_min_(self._eps).copysign_(denominator))


@dataclass(frozen=True)
class Broyden(Solver):
    """Broyden's "good" method from B_0 = −I.

    `max_steps`, `tol`, `stop`, `result` and `divergence` are those of every `Solver`.

    Args:
        step_size: α of Eq. 7.
        line_search: how often a sample's step may be halved until its residual decreases; 0 for no line search. Where
            no trial suffices, the one of lowest residual is taken. Each round costs one evaluation of f.
        limit: the most updates that B_n may hold; then it starts again from −I. None for no limit.

    Raises:
        InputError: a setting is out of its range.
    """

    step_size: float = 1.0
    line_search: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.step_size > 0, f"step_size is {self.step_size}; give a positive number.")
        if self.line_search < 0:
            raise InputError(f"line_search is {self.line_search}; give 0 (none) or how often a step may be halved.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}; B_n must be allowed at least 1 update (None for no limit).")

    @property
    def capacity(self) -> int:
        """The most updates that B_n holds."""
        return self.max_steps if self.limit is None else min(self.limit, self.max_steps)

    @property
    @override
    def evaluates_once(self) -> bool:
        return self.line_search == 0

    @override
    def evaluations(self, steps: int, evaluate_last: bool = True) -> int:
        if self.evaluates_once:
            return super().evaluations(steps, evaluate_last)
        return 1 + steps * (1 + self.line_search)

    @override
    def memory(self, initial: Flat, keep: bool) -> Memory:
        full = self.step_size == 1 and self.line_search == 0
        return (_FullSteps if full else _Increments)(self, initial, keep)

    @override
    def window(self, step: int) -> tuple[range, range]:
        cycle = self.capacity + 1
        return range(step // cycle * cycle, step), range(step, step + 1)

    @override
    def coefficients(
        self, products: Products, shortenings: Float[Tensor, "batch p"] | None
    ) -> tuple[Float[Tensor, "batch p"], Float[Tensor, "batch 1"]]:
        gram, products_with_residual = products.increments, products.mixed[:, :, 0]
        batch, size = products_with_residual.shape
        if size == 0:
            return products_with_residual, products.residuals.new_full((batch, 1), self.step_size)
        step_sizes = None if shortenings is None else self.step_size * shortenings
        updates = Updates.of(gram, self.step_size if step_sizes is None else step_sizes)
        c = updates.project(products_with_residual)
        alpha = self.step_size if step_sizes is None else step_sizes[:, -1]
        d, q = c[:, -1], gram[:, -1, -1] / alpha
        denominator = d + q
        floor = (torch.finfo(q.dtype).eps * q).clamp_min(torch.finfo(q.dtype).tiny)
        sign = torch.where(denominator < 0, -1, 1).to(q.dtype)
        scale = self.step_size / (sign * torch.maximum(denominator.abs(), floor))
        on_increments = -(scale * q)[:, None] * updates.expand(c[:, :-1])
        last = ((1 / alpha - 1) * scale * d)[:, None]
        on_increments = on_increments + pad(last, (size - 1, 0))
        return on_increments, (scale * q)[:, None]

    @override
    def search(self, function: Function, iterate: Iterate, increment: Flat) -> tuple[Flat | None, PerSample | None]:
        if self.line_search == 0:
            return None, None
        start = iterate.residual_norm
        scale = torch.ones_like(start)
        value = function(iterate.state + increment)
        norm = torch.linalg.vector_norm(value - (iterate.state + increment), dim=1)
        trial_scale, moving = 1.0, increment.any(dim=1)
        for _ in range(self.line_search):
            insufficient = moving & ~(norm <= (1 - _SUFFICIENT_DECREASE * trial_scale) * start)
            if self.tol > 0 and not bool(insufficient.any()):
                break
            trial_scale /= 2
            trial_state = iterate.state + trial_scale * increment
            trial = function(trial_state)
            trial_norm = torch.linalg.vector_norm(trial - trial_state, dim=1)
            better = insufficient & ~(trial_norm >= norm)
            scale = torch.where(better, trial_scale, scale)
            norm = torch.where(better, trial_norm, norm)
            value = torch.where(better[:, None], trial, value)
        increment.mul_(scale[:, None])
        return value, scale

    @override
    def inverse(self, trajectory: Trajectory, n: int) -> InverseJacobian:
        rows = slice(n + 1)
        step_sizes = self.step_size
        if trajectory.shortenings is not None:
            step_sizes = self.step_size * pad(trajectory.shortenings.T, (0, 1), value=1)[:, rows]
        index, cycle = torch.arange(n, device=trajectory.steps.device), self.capacity + 1
        last = trajectory.steps.clamp_max(n)[:, None]
        held = (index < last) & (index >= last // cycle * cycle)
        updates = Updates.of(trajectory.continued_gram[:, rows, rows], step_sizes, held)
        return BroydenInverse(trajectory.continued[rows], updates)
