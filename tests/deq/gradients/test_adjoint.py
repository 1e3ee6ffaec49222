"""The simultaneous adjoint is the recursion of Eqs. 9 and 10 along the trajectory; a family costs one sweep."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import dense
from cells import CELLS, TAILS, cross_entropy, images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq.model import DEQ
from robustdeq.gradients import Ensemble, Family, SimultaneousAdjoint, UnrolledIntermediate
from robustdeq.solvers import Anderson, Broyden

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 6
SOLVERS = {
    "broyden": Broyden(max_steps=STEPS, tol=0),
    "broyden-short-steps": Broyden(max_steps=STEPS, tol=0, step_size=0.7),
    "broyden-limited": Broyden(max_steps=STEPS, tol=0, limit=2),
    "broyden-freezing": Broyden(max_steps=STEPS, tol=1e-1),
}
FAMILIES = [
    SimultaneousAdjoint(),
    SimultaneousAdjoint(step_size=0.6, transpose=False),
    UnrolledIntermediate(),
    UnrolledIntermediate(steps=3, damping=0.4),
    UnrolledIntermediate(from_image=True),
]
families = pytest.mark.parametrize("family", FAMILIES, ids=repr)


def dense_gradients(deq: DEQ, x: Tensor, step_size: float, transpose: bool) -> list[Tensor]:
    """(∂f(z_n)/∂x) u_n for n = 1 … N + 1."""
    solver = deq.solver
    assert isinstance(solver, Broyden)
    function, initial = dense.cell_of(deq, x), dense.start_of(deq, x)
    states, inverses = dense.broyden(function, initial, STEPS, solver.step_size, solver.tol, solver.limit)
    adjoints = dense.adjoint_states(deq, x, states, inverses, cross_entropy, step_size, transpose)
    read = [*states[1:], dense.final_state(deq, x, deq.solve(x).solution)]
    return [dense.pulled_to_image(deq, x, z, u) for z, u in zip(read, adjoints[1:], strict=True)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("step_size", "transpose"), [(1.0, True), (0.5, False)])
def test_is_the_recursion_with_dense_matrices(cell: str, solver: str, step_size: float, transpose: bool) -> None:
    deq, x = make_deq(cell, SOLVERS[solver]), images()
    expected = dense_gradients(deq, x, step_size, transpose)
    for n, gradient in enumerate(expected, start=1):
        found = SimultaneousAdjoint(n, step_size, transpose).input_gradient(deq, x, cross_entropy)
        assert_close(found, gradient, rtol=1e-8, atol=1e-8)
    found = SimultaneousAdjoint(None, step_size, transpose).input_gradient(deq, x, cross_entropy)
    assert_close(found, expected[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("transpose", [True, False])
def test_converges_to_the_exact_adjoint_on_a_contraction(transpose: bool) -> None:
    deq, x = make_deq("contractive", Broyden(max_steps=60, tol=1e-14)), images()
    solution = deq.solve(x).solution
    j = dense.state_jacobian(deq, x, solution)
    exact = torch.linalg.solve(torch.eye(j.shape[1]) - j.mT, dense.loss_gradient(deq, solution, cross_entropy))
    expected = dense.pulled_to_image(deq, x, solution, exact)
    found = SimultaneousAdjoint(step_size=0.9, transpose=transpose).input_gradient(deq, x, cross_entropy)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)


@families
@pytest.mark.parametrize("solver", ["broyden", "broyden-freezing"])
@pytest.mark.parametrize("tail", TAILS)
def test_all_members_come_from_one_sweep(family: Family, solver: str, tail: str) -> None:
    deq, x = make_deq("bound", SOLVERS[solver], TAILS[tail]), images()
    members = torch.stack([member(family, n).input_gradient(deq, x, cross_entropy) for n in range(1, STEPS + 2)])
    assert_close(family.input_gradients(deq, x, cross_entropy), members, rtol=1e-10, atol=1e-12)


@families
@pytest.mark.parametrize("solver", ["broyden", "broyden-freezing"])
def test_ensemble_is_the_sum_over_the_states_a_sample_visited(family: Family, solver: str) -> None:
    deq, x = make_deq("contractive", SOLVERS[solver]), images()
    members = family.input_gradients(deq, x, cross_entropy)
    expected = torch.stack(
        [members[:steps, i].sum(dim=0) + members[-1, i] for i, steps in enumerate(deq.solve(x).steps.tolist())]
    )
    assert_close(Ensemble(family).input_gradient(deq, x, cross_entropy), expected, rtol=1e-10, atol=1e-12)


def member(family: Family, n: int) -> Family:
    if isinstance(family, SimultaneousAdjoint):
        return SimultaneousAdjoint(n, family.step_size, family.transpose)
    assert isinstance(family, UnrolledIntermediate)
    return UnrolledIntermediate(n, family.steps, family.damping, family.from_image)


def test_sweep_evaluates_the_cell_once_per_state() -> None:
    deq, x = make_deq(), images()
    calls: list[Tensor] = []
    deq.cell.register_forward_hook(lambda *_: calls.append(x))
    SimultaneousAdjoint(4).input_gradient(deq, x, cross_entropy)
    # z_0 … z_3 by the solver, then z_4, whose image is differentiated
    assert len(calls) == 5
    calls.clear()
    Ensemble(SimultaneousAdjoint()).input_gradient(deq, x, cross_entropy)
    # z_0 … z_N by the solver, then z_{N+1}
    assert len(calls) == STEPS + 2


@families
@pytest.mark.parametrize("n", [0, STEPS + 2])
def test_state_that_the_model_lacks_is_refused(family: Family, n: int) -> None:
    with pytest.raises(InputError, match=f"state {n} does not exist in this model; its solver makes states 1 to 6"):
        member(family, n).input_gradient(make_deq(), images(), cross_entropy)


def test_step_size_must_be_positive() -> None:
    with pytest.raises(InputError, match="step_size is 0"):
        SimultaneousAdjoint(step_size=0.0)


def test_adjoint_needs_an_inverse_estimate() -> None:
    deq = make_deq(solver=Anderson(max_steps=STEPS))
    with pytest.raises(InputError, match="Anderson keeps no estimate of the inverse Jacobian"):
        SimultaneousAdjoint(3).input_gradient(deq, images(), cross_entropy)
