"""Gradients read at the final state or at states unrolled from a constant, against their dense definitions."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import dense
from cells import CELLS, TAILS, cross_entropy, images, make_deq
from dense import apply
from robustdeq.base.errors import InputError
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import SHINE, Exact, Gradient, JacobianFree, Neumann, Phantom, UnrolledIntermediate
from robustdeq.solvers import Anderson, Broyden, Solver

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 6
cells = pytest.mark.parametrize("cell", CELLS)


def solution_and_cotangent(deq: DEQ, x: Tensor) -> tuple[Tensor, Tensor]:
    """z*, where J is taken, and the gradient of the loss at the final state, on which the model is judged."""
    solution = deq.solve(x).solution
    return solution, dense.loss_gradient(deq, dense.final_state(deq, x, solution), cross_entropy)


def assert_pulls_back(gradient: Gradient, deq: DEQ, x: Tensor, adjoint: Tensor, tolerance: float) -> None:
    expected = dense.pulled_to_image(deq, x, deq.solve(x).solution, adjoint)
    assert_close(gradient.input_gradient(deq, x, cross_entropy), expected, rtol=tolerance, atol=tolerance)


@cells
@pytest.mark.parametrize(
    "solver", [Broyden(max_steps=3, tol=0), Broyden(max_steps=12, tol=1e-2), Anderson(max_steps=5)]
)
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_exact_solves_equation_2(cell: str, solver: Solver, tail: Unroll) -> None:
    deq, x = make_deq(cell, solver, tail), images()
    solution, c = solution_and_cotangent(deq, x)
    j = dense.state_jacobian(deq, x, solution)
    adjoint = torch.linalg.solve(torch.eye(j.shape[1]) - j.mT, c)
    assert_pulls_back(Exact(max_steps=100, tol=1e-12), deq, x, adjoint, 1e-8)


@cells
@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (1, 0.4), (5, 0.5), (3, 1.0)])
def test_neumann_sums_its_series(cell: str, steps: int, damping: float) -> None:
    deq, x = make_deq(cell), images()
    solution, c = solution_and_cotangent(deq, x)
    j = dense.state_jacobian(deq, x, solution)
    factor = damping * j.mT + (1 - damping) * torch.eye(j.shape[1])
    adjoint = damping * sum(apply(torch.linalg.matrix_power(factor, t), c) for t in range(steps))
    assert_pulls_back(Neumann(steps, damping), deq, x, adjoint, 1e-10)


@cells
@pytest.mark.parametrize("step_size", [1.0, 0.7])
@pytest.mark.parametrize("tol", [0.0, 2e-1])
def test_shine_applies_the_transpose_of_the_forward_estimate(cell: str, step_size: float, tol: float) -> None:
    deq, x = make_deq(cell, Broyden(max_steps=STEPS, tol=tol, step_size=step_size)), images()
    _, c = solution_and_cotangent(deq, x)
    _, inverses = dense.broyden(dense.cell_of(deq, x), dense.start_of(deq, x), STEPS, step_size, tol)
    assert_pulls_back(SHINE(), deq, x, -apply(inverses[-1].mT, c), 1e-9)


@cells
@pytest.mark.parametrize("state", [1, 4, STEPS])
@pytest.mark.parametrize("tol", [0.0, 2e-1])
def test_shine_of_a_state_applies_the_estimate_that_the_solver_holds_there(cell: str, state: int, tol: float) -> None:
    deq, x = make_deq(cell, Broyden(max_steps=STEPS, tol=tol)), images()
    states, inverses = dense.broyden(dense.cell_of(deq, x), dense.start_of(deq, x), STEPS, tol=tol)
    c = dense.loss_gradient(deq, states[state], cross_entropy)
    expected = dense.pulled_to_image(deq, x, states[state], -apply(inverses[state].mT, c))
    assert expected.abs().amax() > 1e-3
    assert_close(SHINE(state).input_gradient(deq, x, cross_entropy), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("state", [0, STEPS + 1])
def test_shine_exists_where_the_solver_holds_an_estimate(state: int) -> None:
    with pytest.raises(InputError, match=f"no estimate at state {state}; give 1 to {STEPS}"):
        SHINE(state).input_gradient(make_deq(solver=Broyden(max_steps=STEPS)), images(), cross_entropy)


@cells
def test_jacobian_free_pulls_back_the_cotangent_itself(cell: str) -> None:
    deq, x = make_deq(cell), images()
    assert_pulls_back(JacobianFree(), deq, x, solution_and_cotangent(deq, x)[1], 1e-10)


@cells
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (5, 0.5)])
def test_phantom_is_autograd_from_where_the_tail_starts(cell: str, tail: Unroll, steps: int, damping: float) -> None:
    deq, x = make_deq(cell, tail=tail), images()
    solution = deq.solve(x).solution
    start = dense.cell_of(deq, x)(solution) if tail.from_image else solution
    expected = dense.unrolled_gradient(deq, x, start, steps, damping, cross_entropy)
    assert_close(Phantom(steps, damping).input_gradient(deq, x, cross_entropy), expected, rtol=1e-10, atol=1e-10)


@cells
@pytest.mark.parametrize("state", [1, 4, STEPS, STEPS + 1, None])
@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (4, 0.3)])
@pytest.mark.parametrize("from_image", [False, True])
def test_unrolled_intermediate_is_autograd_from_the_state(
    cell: str, state: int | None, steps: int, damping: float, from_image: bool
) -> None:
    deq, x = make_deq(cell, tail=TAILS["damped-from-image"]), images()
    t = deq.solve(x)
    final = dense.final_state(deq, x, t.solution)
    assert_close(t.final.flatten(1), final)
    start = final if state in (None, STEPS + 1) else t.flat_state(state)
    gradient = UnrolledIntermediate(state, steps, damping, from_image)
    expected = dense.unrolled_gradient(deq, x, start, steps, damping, cross_entropy, from_image)
    assert_close(gradient.input_gradient(deq, x, cross_entropy), expected, rtol=1e-10, atol=1e-10)


def test_shine_needs_an_inverse_estimate() -> None:
    deq = make_deq(solver=Anderson(max_steps=4))
    with pytest.raises(InputError, match="Anderson keeps no estimate of the inverse Jacobian"):
        SHINE().input_gradient(deq, images(), cross_entropy)


@pytest.mark.parametrize("gradient", [Phantom, Neumann, UnrolledIntermediate])
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 0}, "steps is 0"), ({"damping": 0.0}, "damping is 0"), ({"damping": 1.1}, "damping is 1.1")],
)
def test_setting_out_of_range_is_named(gradient: type, settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradient(**settings)


@pytest.mark.parametrize(("settings", "message"), [({"max_steps": 0}, "max_steps is 0"), ({"tol": -1.0}, "tol is -1")])
def test_backward_solver_out_of_range_is_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Exact(**settings)
