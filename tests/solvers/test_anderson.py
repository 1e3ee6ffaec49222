"""Anderson acceleration mixes the last m states so that the mixed residual is small."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchdeq.solver.anderson import anderson_solver

import dense
from cells import CELLS, images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.solvers import Anderson

pytestmark = pytest.mark.usefixtures("float64")
MAX_STEPS = 9


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("history", [2, 4, 20])
@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
def test_iterates_are_those_of_torchdeq(cell: str, history: int, ridge: float) -> None:
    deq, x = make_deq(cell), images()
    function, initial = dense.cell_of(deq, x), dense.start_of(deq, x)
    seen: list[Tensor] = []

    def recorded(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return function(z)

    anderson_solver(recorded, initial, max_iter=MAX_STEPS + 1, tol=0, m=history, lam=ridge, return_final=True)
    trajectory = Anderson(max_steps=MAX_STEPS, tol=0, history=history, ridge=ridge).solve(function, initial)
    assert_close(trajectory.states, torch.stack(seen[1:]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("cell", ["contractive", "expansive"])
@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("mixing", [1.0, 0.6])
def test_iterates_solve_the_constrained_least_squares(cell: str, history: int, mixing: float) -> None:
    deq, x = make_deq(cell), images()
    function, initial = dense.cell_of(deq, x), dense.start_of(deq, x)
    trajectory = Anderson(max_steps=MAX_STEPS, tol=0, history=history, mixing=mixing).solve(function, initial)
    expected = dense.anderson(function, initial, MAX_STEPS, history, mixing, ridge=1e-4)
    assert_close(trajectory.states, torch.stack(expected[1:]), rtol=1e-8, atol=1e-8)


def test_parallel_residuals_are_mixed_without_a_ridge() -> None:
    """Of f(z) = z/2 + 1 all residuals are parallel, so that their products cannot be inverted."""
    trajectory = Anderson(max_steps=40, tol=1e-6, ridge=0.0).solve(lambda z: z / 2 + 1, torch.zeros(2, 3))
    assert not trajectory.diverged.any()
    assert_close(trajectory.final, torch.full((2, 3), 2.0), rtol=1e-5, atol=1e-5)


def test_streams_what_it_keeps() -> None:
    deq, x = make_deq("expansive"), images()
    function, initial = dense.cell_of(deq, x), dense.start_of(deq, x)
    solver = Anderson(max_steps=MAX_STEPS, tol=0, history=2)
    streamed = [iterate.state for iterate in solver.iterate(function, initial)]
    assert_close(torch.stack(streamed[1:]), solver.solve(function, initial).states, rtol=0, atol=1e-12)


def test_keeps_no_inverse_estimate() -> None:
    trajectory = Anderson(max_steps=3).solve(torch.cos, torch.zeros(2, 3))
    with pytest.raises(InputError, match="Anderson keeps no estimate of the inverse Jacobian"):
        trajectory.inverse(1)
