"""One sample, one step of the solver, two classes: nothing is too small to be solved, read and differentiated."""

from itertools import starmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

import dense
from cells import TAILS, VECTOR, TanhCell, images
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState, StateDefense, defended_logits, state_logits
from robustdeq.deq.entropy import EntropyReduced, EntropyReduction
from robustdeq.deq.model import DEQ, Gradient
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    JacobianFree,
    Neumann,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

pytestmark = pytest.mark.usefixtures("float64")
SOLVERS = st.one_of(
    st.builds(Broyden, st.integers(1, 2), st.sampled_from([0.0, 0.1]), line_search=st.integers(0, 1)),
    st.builds(Broyden, st.integers(1, 3), st.just(0.0), limit=st.just(1)),
    st.builds(Anderson, st.integers(1, 3), st.sampled_from([0.0, 0.1]), history=st.integers(1, 2)),
    st.builds(Picard, st.integers(1, 2), st.sampled_from([0.0, 0.1])),
)
MODELS = st.tuples(SOLVERS, st.sampled_from([*TAILS.values(), Unroll(0)]), st.integers(2, 3))
DEFENSES: list[StateDefense] = [FinalState(), EarlyState(1), EnsembleState()]
GRADIENTS: list[Gradient] = [
    Exact(1, 0),
    Phantom(1, 1.0),
    Neumann(1, 1.0),
    SHINE(),
    SHINE(state=1),
    JacobianFree(),
    SimultaneousAdjoint(),
    SimultaneousAdjoint(state=1),
    UnrolledIntermediate(state=1),
    Ensemble(SimultaneousAdjoint()),
    Ensemble(UnrolledIntermediate()),
    *map(ThroughSolver, DEFENSES),
    *starmap(ThroughSolver, ((defense, True) for defense in DEFENSES)),
]


def make(solver: Solver, tail: Unroll, classes: int) -> DEQ:
    torch.manual_seed(1)
    injection = nn.Sequential(nn.Flatten(), nn.Linear(6, VECTOR))
    return DEQ(injection, TanhCell(0.7), nn.Linear(VECTOR, classes), solver, tail)


def loss(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, torch.ones(len(logits), dtype=torch.long), reduction="none")


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@settings(max_examples=10, deadline=None)
@given(MODELS)
def test_a_gradient_of_one_sample_is_that_of_its_batch_or_refused_in_a_sentence(
    gradient: Gradient, model: tuple[Solver, Unroll, int]
) -> None:
    deq, x = make(*model), images(2)
    try:
        gradient.check(deq)
    except InputError as refused:
        assert isinstance(deq.solver, Anderson)
        assert "keeps no estimate of the inverse Jacobian; solve with Broyden" in str(refused)
        return
    together = gradient.input_gradient(deq, x, loss)
    assert together.isfinite().all()
    leaf = x[:1].clone().requires_grad_()
    assert_close(gradient.input_gradient(deq, leaf, loss), together[:1], rtol=1e-9, atol=1e-11)
    (pulled,) = torch.autograd.grad(loss(Surrogate(deq, gradient)(leaf)).sum(), leaf)
    assert pulled.isfinite().all()


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
@settings(max_examples=10, deadline=None)
@given(MODELS)
def test_through_so_short_a_solve_it_is_the_derivative(
    defense: StateDefense, model: tuple[Solver, Unroll, int]
) -> None:
    deq, x = make(*model), images(1)
    expected = dense.finite_differences(lambda x: loss(defended_logits(deq, x, [defense])[0]), x)
    found = ThroughSolver(defense).input_gradient(deq, x, loss)
    assert_close(found, expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(MODELS, st.integers(1, 3))
def test_states_are_read_and_inputs_moved(model: tuple[Solver, Unroll, int], interval: int) -> None:
    deq, x = make(*model), images(1)
    logits, residuals = state_logits(deq, x)
    assert logits.shape == (deq.last_state, 1, model[2])
    assert residuals.shape == (deq.last_state, 1)
    first, final, mean = defended_logits(deq, x, [EarlyState(1), FinalState(), EnsembleState()])
    assert_close(first, logits[0])
    assert_close(final, logits[-1])
    visited = [*range(int(deq.solve(x).steps)), deq.last_state - 1]
    assert_close(mean, logits[visited].mean(dim=0))
    moved = EntropyReduced(deq, EntropyReduction(interval, 1, 0.1, 0.1, bounds=(-9.0, 9.0)))(x)
    assert moved.shape == final.shape
    if interval >= deq.solver.max_steps:
        assert_close(moved, final)
