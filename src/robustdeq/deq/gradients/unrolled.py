"""Unrolled intermediates (paper, §4.2): the phantom gradient taken at a state of the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from typing_extensions import override

from robustdeq.base.derivative import derivative
from robustdeq.base.shapes import Injected, State
from robustdeq.deq.gradients.base import Family
from robustdeq.deq.gradients.phantom import check_steps
from robustdeq.deq.model import DEQ, Loss, StateGradient, total_loss
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll


@dataclass(frozen=True)
class UnrolledIntermediate(StateGradient, Family):
    """Autograd through ẑ_{n+t} = (1 − λ) ẑ_{n+t−1} + λ f(ẑ_{n+t−1}), t = 1 … k, from ẑ_n = z_n (Eqs. 13–16).

    The loss is read at ẑ_{n+k}. The released code applies f once, undamped, before these steps: `from_image` does so,
    and its k steps are k + 1 here.

    Args:
        state: n, from 1 to N + 1; None for N + 1, the final state.
        steps: k.
        damping: λ.
        from_image: start from ẑ_n = f(z_n), differentiated like every step, as the released code does.

    Raises:
        InputError: a setting is out of its range.
    """

    steps: int = 1
    damping: float = 1.0
    from_image: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps, self.damping)

    @property
    @override
    def label(self) -> str:
        state = "z_{N+1}" if self.state is None else f"z_{self.state}"
        start = f"f({state})" if self.from_image else state
        return f"unrolled from {start}, k = {self.steps}, λ = {self.damping:g}"

    @property
    def _evaluations(self) -> int:
        return 3 * (self.steps + self.from_image)

    @override
    def until(self, deq: DEQ) -> int | None:
        return self.state

    @override
    def evaluations(self, deq: DEQ) -> int:
        return deq.evaluations(self.state) + self._evaluations

    @override
    def sweep_evaluations(self, deq: DEQ) -> int:
        return deq.evaluations(None) + self._evaluations * deq.last_state

    @override
    def read(self, solution: Solution) -> State:
        n = solution.trajectory.max_steps + 1 if self.state is None else self.state
        start = solution.cell(solution.state(n)) if self.from_image else solution.state(n)
        return Unroll(self.steps, self.damping)(solution.cell, start)

    @override
    def sweep(self, deq: DEQ, solution: Solution, loss: Loss, states: range) -> Iterator[tuple[int, Injected]]:
        for n in states:
            yield n, replace(self, state=n)._on_injection(deq, solution, loss)

    def _on_injection(self, deq: DEQ, solution: Solution, loss: Loss) -> Injected:
        """The gradient with respect to u, from which f may read what is made of it once for all states."""
        with torch.enable_grad():
            total = total_loss(loss, deq.classify(solution.cell, self.read(solution)))
        return derivative(total, solution.u, retain=True)
