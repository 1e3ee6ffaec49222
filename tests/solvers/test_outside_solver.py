"""A solver that the package does not know gets trajectory, stream and the gradient through it from the package."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from typing_extensions import override

import dense
from cells import TAILS, cross_entropy, images, make_deq
from robustdeq.defenses import EarlyState, EnsembleState, FinalState, StateDefense, defended_logits
from robustdeq.gradients import ThroughSolver
from robustdeq.solvers import Solver
from robustdeq.solvers.memory import Memory, Products, Window

pytestmark = pytest.mark.usefixtures("float64")


class _LastIncrement(Memory):
    """s_{n−1}, and g_n behind it, which becomes s_n."""

    def __init__(self, solver: "HeavyBall", initial: Tensor, keep: bool) -> None:
        self._solver = solver
        self._kept = solver.max_steps if keep else 1
        self._window = Window(initial, self._kept + 1)

    def receive(self, value: Tensor, state: Tensor) -> Tensor:
        return torch.sub(value, state, out=self._window.slot())

    def propose(self) -> Tensor:
        increment = self._window.slot()
        for previous in self._window.vectors[-1:]:
            increment.add_(previous, alpha=self._solver.momentum)
        return increment

    def commit(self, shortenings: Tensor | None) -> None:
        self._window.push(self._kept)

    def increments(self, max_steps: int) -> Tensor:
        self._window.buffer[self._window.stop :] = 0
        return self._window.buffer[:max_steps]


@dataclass(frozen=True)
class HeavyBall(Solver):
    """s_n = g_n + μ s_{n−1} (Polyak's heavy ball)."""

    momentum: float = 0.2

    @override
    def memory(self, initial: Tensor, keep: bool) -> Memory:
        return _LastIncrement(self, initial, keep)

    @override
    def window(self, step: int) -> tuple[range, range]:
        return range(max(0, step - 1), step), range(step, step + 1)

    @override
    def coefficients(self, products: Products, shortenings: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, count = products.mixed.shape[:2]
        return products.mixed.new_full((batch, count), self.momentum), products.mixed.new_ones(batch, 1)


@pytest.mark.parametrize("defense", [FinalState(), EarlyState(3), EnsembleState()], ids=repr)
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("tol", [0.0, 2e-2])
def test_gradient_through_it_is_the_derivative(defense: StateDefense, tail: object, tol: float) -> None:
    deq, x = make_deq("contractive", HeavyBall(max_steps=8, tol=tol), tail), images()
    expected = dense.finite_differences(lambda x: cross_entropy(defended_logits(deq, x, [defense])[0]), x)
    found = ThroughSolver(defense).input_gradient(deq, x, cross_entropy)
    assert_close(found, expected, rtol=1e-6, atol=1e-6 * expected.abs().amax().item())


def test_states_are_those_of_the_method_kept_or_streamed() -> None:
    deq, x = make_deq("contractive", HeavyBall(max_steps=8, tol=0)), images()
    function = dense.cell_of(deq, x)
    z, step = torch.zeros_like(deq.solve(x).initial), 0
    for seen in deq.solution(x).states(range(1, 9)):
        step = function(z) - z + 0.2 * step
        z = z + step
        assert_close(seen.state, z, rtol=1e-12, atol=1e-12)
        assert_close(deq.solve(x).state(seen.index), z, rtol=1e-12, atol=1e-12)
