"""Broyden's method is Eqs. 7 and 8, whatever form it is computed in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchdeq.solver.broyden import broyden_solver

import dense
from cells import CELLS, images, make_deq, with_norm
from dense import apply, relative_residual
from robustdeq.solvers import Broyden, Trajectory

pytestmark = pytest.mark.usefixtures("float64")
STEP_SIZES = [1.0, 0.7, 1.3]


def problem(cell: str = "contractive") -> tuple[dense.Function, Tensor]:
    deq, x = make_deq(cell), images()
    return dense.cell_of(deq, x), dense.start_of(deq, x)


def all_states(trajectory: Trajectory) -> list[Tensor]:
    return [trajectory.flat_state(n) for n in range(trajectory.max_steps + 1)]


def assert_inverses(trajectory: Trajectory, matrices: list[Tensor], tolerance: float = 1e-10) -> None:
    v = torch.randn_like(trajectory.initial)
    for n, matrix in enumerate(matrices):
        inverse = trajectory.inverse(n)
        assert_close(inverse.matvec(v), apply(matrix, v), rtol=tolerance, atol=tolerance)
        assert_close(inverse.rmatvec(v), apply(matrix.mT, v), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_iterates_are_those_of_torchdeq(cell: str) -> None:
    function, initial = problem(cell)
    seen: list[Tensor] = []

    def recorded(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return function(z)

    broyden_solver(recorded, initial, max_iter=7, tol=0, return_final=True)
    trajectory = Broyden(max_steps=7, tol=0).solve(function, initial)
    assert_close(torch.stack(all_states(trajectory)), torch.stack(seen), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("step_size", STEP_SIZES)
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_iterates_and_inverses_are_those_of_equations_7_and_8(cell: str, step_size: float, limit: int | None) -> None:
    function, initial = problem(cell)
    trajectory = Broyden(max_steps=7, tol=0, step_size=step_size, limit=limit).solve(function, initial)
    states, matrices = dense.broyden(function, initial, 7, step_size, limit=limit)
    assert_close(torch.stack(all_states(trajectory)), torch.stack(states), rtol=1e-10, atol=1e-10)
    assert_inverses(trajectory, matrices)


@pytest.mark.parametrize("step_size", STEP_SIZES)
@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("tol", [1e-1, 1e-2])
def test_inverse_of_a_frozen_sample_stays_as_it_was(step_size: float, limit: int | None, tol: float) -> None:
    function, initial = problem()
    trajectory = Broyden(max_steps=9, tol=tol, step_size=step_size, limit=limit).solve(function, initial)
    assert len(trajectory.steps.unique()) > 1
    states, matrices = dense.broyden(function, initial, 9, step_size, tol=tol, limit=limit)
    assert_close(torch.stack(all_states(trajectory)), torch.stack(states), rtol=1e-10, atol=1e-10)
    assert_inverses(trajectory, matrices)


@pytest.mark.parametrize("limit", [6, 7, 50])
def test_limited_memory_is_full_memory_until_it_is_full(limit: int) -> None:
    function, initial = problem("expansive")
    limited = Broyden(max_steps=7, tol=0, limit=limit).solve(function, initial)
    full = Broyden(max_steps=7, tol=0).solve(function, initial)
    assert_close(limited.states, full.states, rtol=0, atol=0)


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_full_memory_starts_again_from_minus_the_identity(limit: int) -> None:
    function, initial = problem("expansive")
    trajectory = Broyden(max_steps=12, tol=0, limit=limit).solve(function, initial)
    for n in range(0, 12, limit + 1):
        z = trajectory.flat_state(n)
        assert_close(trajectory.flat_state(n + 1), function(z))
        assert_close(trajectory.inverse(n).matvec(z), -z)


@pytest.mark.parametrize("keep", [True, False])
def test_limited_memory_streams_what_it_keeps(keep: bool) -> None:
    function, initial = problem("expansive")
    solver = Broyden(max_steps=12, tol=0, limit=3)
    kept = solver.solve(function, initial)
    streamed = [iterate.state for iterate in solver.iterate(function, initial)]
    assert_close(torch.stack(streamed), torch.stack(all_states(kept)), rtol=0, atol=1e-12)


def residual_norm(function: dense.Function, z: Tensor) -> Tensor:
    return (function(z) - z).norm(dim=1)


@pytest.mark.parametrize("norm", [2.0, 5.0])
@pytest.mark.parametrize("halvings", [1, 3])
@pytest.mark.parametrize("step_size", [1.0, 1.5])
def test_line_search_takes_a_decrease_where_there_is_one_else_the_lowest(
    norm: float, halvings: int, step_size: float
) -> None:
    weight, shift = with_norm(torch.randn(6, 6), norm), torch.randn(3, 6)

    def function(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + shift)

    solver = Broyden(max_steps=7, tol=0, step_size=step_size, line_search=halvings)
    trajectory = solver.solve(function, torch.zeros(3, 6))
    assert trajectory.shortenings is not None
    scales = trajectory.shortenings
    assert (scales < 1).any()
    for n, (s, scale) in enumerate(zip(trajectory.increments, scales, strict=True)):
        z = trajectory.flat_state(n)
        before, after = residual_norm(function, z), residual_norm(function, z + s)
        full = s / scale[:, None]
        trials = torch.stack([residual_norm(function, z + full / 2**k) for k in range(halvings + 1)])
        decreases = (trials < 0.999 * before).any(dim=0)
        assert (after[decreases] < before[decreases]).all()
        assert_close(after[~decreases], trials.amin(dim=0)[~decreases])


@pytest.mark.parametrize("step_size", STEP_SIZES)
@pytest.mark.parametrize("tol", [0.0, 1e-1])
def test_inverse_after_a_line_search_is_that_of_its_step_sizes(step_size: float, tol: float) -> None:
    function, initial = problem("expansive" if tol == 0 else "bound")
    solver = Broyden(max_steps=9, tol=tol, step_size=step_size, line_search=2)
    trajectory = solver.solve(function, initial)
    assert trajectory.shortenings is not None
    states, matrices = dense.broyden(function, initial, 9, tol=tol, searched=step_size * trajectory.shortenings)
    assert_close(torch.stack(all_states(trajectory)), torch.stack(states), rtol=1e-9, atol=1e-9)
    assert_inverses(trajectory, matrices, 1e-8)


def test_line_search_asks_for_no_trial_on_behalf_of_a_frozen_sample() -> None:
    weight, shift = with_norm(torch.randn(6, 6), 0.6), torch.randn(3, 6) * torch.tensor([[0.01], [1.0], [10.0]])
    solver = Broyden(max_steps=20, tol=1e-4, stop="abs", line_search=3)

    def evaluations(shift: Tensor) -> int:
        calls = []

        def function(z: Tensor) -> Tensor:
            calls.append(z)
            return torch.tanh(z @ weight.T + shift)

        steps = solver.solve(function, torch.zeros_like(shift)).steps
        assert len(steps) == 1 or len(steps.unique()) > 1
        return len(calls)

    assert evaluations(shift) == max(evaluations(one[None]) for one in shift)


def test_line_search_converges_where_plain_broyden_diverges() -> None:
    shift = torch.tensor([[4.0, -5.0], [5.0, 6.0], [6.0, 4.0]])

    def steep(z: Tensor) -> Tensor:
        return z + shift - torch.sinh(5 * z)

    plain = Broyden(max_steps=60, tol=1e-9, stop="abs").solve(steep, torch.zeros(3, 2))
    searched = Broyden(max_steps=60, tol=1e-9, stop="abs", line_search=12).solve(steep, torch.zeros(3, 2))
    assert plain.diverged.all()
    assert searched.converged.all()
    assert_close(searched.solution, torch.asinh(shift) / 5, rtol=0, atol=1e-9)


problems = st.tuples(st.integers(0, 10_000), st.integers(2, 7), st.floats(0.1, 0.9))


def linear(seed: int, dim: int, norm: float, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, dim, dim, generator=generator)
    b = torch.randn(batch, dim, generator=generator)
    return a * (norm / torch.linalg.matrix_norm(a, ord=2))[:, None, None], b


@given(problems)
@settings(max_examples=40, deadline=None)
def test_solves_a_contractive_linear_problem_in_two_dim_steps(drawn: tuple[int, int, float]) -> None:
    a, b = linear(*drawn)
    dim = a.shape[1]
    trajectory = Broyden(max_steps=2 * dim + 1, tol=0).solve(lambda z: apply(a, z) + b, torch.zeros_like(b))
    solution = torch.linalg.solve(torch.eye(dim) - a, b)
    assert_close(trajectory.solution, solution, rtol=1e-6, atol=1e-6)


@given(problems, st.sampled_from(STEP_SIZES), st.sampled_from([None, 2]))
@settings(max_examples=40, deadline=None)
def test_inverse_satisfies_the_secant_equation(
    drawn: tuple[int, int, float], step_size: float, limit: int | None
) -> None:
    a, b = linear(*drawn)

    def function(z: Tensor) -> Tensor:
        return torch.tanh(2 * apply(a, z) + b)

    trajectory = Broyden(max_steps=4, tol=0, step_size=step_size, limit=limit).solve(function, torch.zeros_like(b))
    states = all_states(trajectory)
    residuals = [function(z) - z for z in states]
    for n in range(1, 5):
        if limit is None or n % (limit + 1):
            s = states[n] - states[n - 1]
            image = trajectory.inverse(n).matvec(residuals[n] - residuals[n - 1])
            error, size = (image - s).norm(dim=1), s.norm(dim=1)
            resolved = size > 1e-6
            assert (error[resolved] <= 1e-5 * size[resolved]).all()


@given(problems, st.integers(0, 6), st.sampled_from([0.0, 0.1]))
@settings(max_examples=40, deadline=None)
def test_matvec_and_rmatvec_are_adjoint(drawn: tuple[int, int, float], n: int, tol: float) -> None:
    a, b = linear(*drawn)
    trajectory = Broyden(max_steps=6, tol=tol).solve(lambda z: torch.tanh(apply(a, z) + b), torch.zeros_like(b))
    v, w = torch.randn_like(b), torch.randn_like(b)
    inverse = trajectory.inverse(n)
    assert_close(dense.dot(w, inverse.matvec(v)), dense.dot(inverse.rmatvec(w), v), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_residuals_of_a_convolution_or_vector_state_are_relative(cell: str) -> None:
    function, initial = problem(cell)
    trajectory = Broyden(max_steps=5, tol=0).solve(function, initial)
    expected = torch.stack([relative_residual(function, z) for z in trajectory.states])
    assert_close(trajectory.residuals, expected)
