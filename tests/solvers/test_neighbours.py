"""Nobody's neighbour: what a solver makes of a sample depends on no other of its batch, of whatever temper they are.

Beside other neighbours in a batch of the same shape, a sample is computed by the same operations and must come out the
same to the last digit. Alone it has another shape, in which kernels may round otherwise, and comes out close.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from robustdeq.solvers import Broyden, Solver, Trajectory
from tempers import companies, methods, tempered

pytestmark = pytest.mark.usefixtures("float64")
FLAGS = ("steps", "converged", "diverged", "best_index")


def solved(solver: Solver, x: Tensor) -> Trajectory:
    return tempered(solver).solution(x).trajectory


def outcome(t: Trajectory, i: int) -> dict[str, Tensor]:
    """All that a trajectory says of a sample."""
    of_batch = {
        "states": t.states.transpose(0, 1),
        "residuals": t.residuals.T,
        "solution": t.solution,
        "value": t.best_value,
        **{name: getattr(t, name) for name in FLAGS},
    }
    if t.shortenings is not None:
        of_batch["shortenings"] = torch.where(t.increments.any(dim=2), t.shortenings, 1).T
    return {name: values[i] for name, values in of_batch.items()}


@given(methods(), companies())
@settings(max_examples=60, deadline=None)
def test_a_sample_is_solved_alike_beside_any_neighbours(solver: Solver, drawn: tuple[int, Tensor, Tensor]) -> None:
    place, here, there = drawn
    found, expected = (outcome(solved(solver, x), place) for x in (here, there))
    assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@given(methods(), companies(largest_gain=0.8))
@settings(max_examples=60, deadline=None)
def test_a_sample_is_solved_beside_neighbours_as_it_is_alone(solver: Solver, drawn: tuple[int, Tensor, Tensor]) -> None:
    place, x, _ = drawn
    found, alone = outcome(solved(solver, x), place), outcome(solved(solver, x[place : place + 1]), 0)
    assume(not (alone["residuals"] < 1e-11).any())  # down there residuals are rounding, and so is when it stops
    assert_close(found, alone, rtol=1e-8, atol=1e-8, equal_nan=True)


@given(methods(), companies())
@settings(max_examples=60, deadline=None)
def test_what_a_sample_becomes_is_finite_or_flagged(solver: Solver, drawn: tuple[int, Tensor, Tensor]) -> None:
    _, x, _ = drawn
    t = solved(solver, x)
    assert (t.diverged | t.best_value.isfinite().all(dim=1)).all()
    assert t.states.isfinite().all()
    assert not (t.diverged & t.converged).any()


@given(methods(), companies(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_solve_stays_within_its_evaluations(
    solver: Solver, drawn: tuple[int, Tensor, Tensor], evaluate_last: bool
) -> None:
    _, x, _ = drawn
    deq, calls = tempered(solver), []
    deq.cell.register_forward_hook(lambda *_: calls.append(1))
    _, cell, start = deq.bind(x)
    solver.solve(cell, start, evaluate_last)
    trials = solver.line_search if isinstance(solver, Broyden) else 0
    assert len(calls) <= (evaluate_last or trials > 0) + solver.max_steps * (1 + trials)
