"""Phantom gradients (Geng et al., "On training implicit models", NeurIPS 2021): a few damped steps beyond z*."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from robustdeq.base.errors import require
from robustdeq.base.shapes import State
from robustdeq.deq.cell import Linearization
from robustdeq.deq.gradients.implicit import Implicit, JacobianFree
from robustdeq.deq.model import DEQ, StateGradient
from robustdeq.deq.solve import Solution
from robustdeq.deq.tail import Unroll


def check_steps(steps: int, damping: float) -> None:
    """Raise `InputError` unless there is at least one step and 0 < damping ≤ 1."""
    require(steps >= 1, f"steps is {steps}; a gradient needs at least 1 step.")
    require(0 < damping <= 1, f"damping is {damping}; give a number in (0, 1].")


@dataclass(frozen=True)
class _Damped:
    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        check_steps(self.steps, self.damping)


@dataclass(frozen=True)
class Phantom(_Damped, StateGradient):
    """The unrolling-based phantom gradient: autograd through Eq. 6, ẑ_{N+t} = (1 − λ) ẑ_{N+t−1} + λ f(ẑ_{N+t−1}).

    The loss is read at ẑ_{N+k} and the steps start, as a constant, where the model's tail starts: at z* (Eq. 6) or at
    f(z*) (the published unrolling-trained models).

    Args:
        steps: k.
        damping: λ.

    Raises:
        InputError: a setting is out of its range.
    """

    @property
    @override
    def label(self) -> str:
        return f"phantom, k = {self.steps}, λ = {self.damping:g}"

    @override
    def evaluations(self, deq: DEQ) -> int:
        return deq.solver.evaluations(deq.solver.max_steps) + 3 * self.steps

    @override
    def read(self, solution: Solution) -> State:
        return Unroll(self.steps, self.damping)(solution.cell, solution.start)

    @override
    def reads_final(self, tail: Unroll) -> bool:
        return (tail.steps, tail.damping) == (self.steps, self.damping)


@dataclass(frozen=True)
class Neumann(_Damped, Implicit):
    """The series form: u = λ Σ_{t=0}^{k−1} (λ Jᵀ + (1 − λ) I)^t c, with J at z*.

    Settings as for `Phantom`; k is the number of terms.
    """

    @property
    @override
    def label(self) -> str:
        return f"Neumann series, k = {self.steps}, λ = {self.damping:g}"

    @property
    @override
    def products(self) -> int:
        return self.steps - 1

    @override
    def adjoint(self, solution: Solution, linearization: Linearization, c: Tensor) -> Tensor:
        term = total = c
        for _ in range(self.steps - 1):
            term = term.lerp(linearization.vjp(term, retain=True)[0], self.damping)
            total = total + term
        return self.damping * total


def own_gradient(deq: DEQ) -> StateGradient:
    """The gradient that a model's weights are trained with, for attacks to climb the same logits by the same gradient.

    Args:
        deq: the model.

    Returns:
        `deq.gradient`. Where that is None, the phantom gradient with the steps of the tail, which is what the model
        then differentiates; where the tail makes no step, one application of f at z* (`JacobianFree`).
    """
    if deq.gradient is not None:
        return deq.gradient
    return Phantom(deq.tail.steps, deq.tail.damping) if deq.tail.steps else JacobianFree()
