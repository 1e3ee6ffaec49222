"""Nobody's neighbour: logits and gradients of a sample depend on no other of its batch, of whatever temper they are.

Beside other neighbours in a batch of the same shape they are the same to the last digit (`test_neighbours.py`).
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from cells import TAILS, linear_loss
from robustdeq.base.errors import InputError
from robustdeq.defenses import EarlyState, EnsembleState, FinalState, StateDefense, defended_logits
from robustdeq.deq.model import DEQ
from robustdeq.deq.monotone import Contracting, ForwardBackward, Monotone, MonotoneDEQ, PeacemanRachford
from robustdeq.deq.reversible import reversible
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Gradient,
    JacobianFree,
    Neumann,
    Phantom,
    Reversed,
    SimultaneousAdjoint,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.solvers import Picard, Solver
from tempers import CLASSES, companies, methods, tempered

pytestmark = pytest.mark.usefixtures("float64")
Company = tuple[int, Tensor, Tensor]
GRADIENTS: list[Gradient] = [
    Exact(max_steps=10),
    SHINE(),
    JacobianFree(),
    Phantom(),
    Neumann(),
    UnrolledIntermediate(1, 2, 0.5),
    ThroughSolver(),
    ThroughSolver(EnsembleState(), checkpoint=True),
    ThroughSolver(EarlyState(1)),
    SimultaneousAdjoint(),
    Ensemble(SimultaneousAdjoint()),
]
DEFENSES: list[StateDefense] = [FinalState(), EarlyState(1), EnsembleState()]
tails = st.sampled_from([*TAILS.values()])


def checked(gradient: Gradient, deq: DEQ) -> DEQ:
    """The model, where the gradient is defined for it."""
    try:
        gradient.check(deq)
    except InputError:
        assume(False)
    return deq


@given(methods(), tails, companies())
@settings(max_examples=100, deadline=None)
def test_logits_of_a_sample_are_the_same_beside_any_neighbours(solver: Solver, tail: Any, drawn: Company) -> None:
    place, *batches = drawn
    deq = tempered(solver, tail)
    here, there = ([logits[place] for logits in defended_logits(deq, x, DEFENSES)] for x in batches)
    assert_close(here, there, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@given(solver=methods(), tail=tails, drawn=companies())
@settings(max_examples=40, deadline=None)
def test_gradient_of_a_sample_is_the_same_beside_any_neighbours(
    gradient: Gradient, solver: Solver, tail: Any, drawn: Company
) -> None:
    place, *batches = drawn
    deq = checked(gradient, tempered(solver, tail))
    here, there = (gradient.input_gradient(deq, x, linear_loss)[place] for x in batches)
    assert_close(here, there, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@given(solver=methods(), drawn=companies(largest_gain=0.8))
@settings(max_examples=20, deadline=None)
def test_gradient_of_a_sample_beside_neighbours_is_that_of_the_sample_alone(
    gradient: Gradient, solver: Solver, drawn: Company
) -> None:
    place, x, _ = drawn
    deq, alone = checked(gradient, tempered(solver)), x[place : place + 1]
    assume(not (deq.solve(alone).residuals < 1e-4).any())  # nearer to rest, rounding decides what Broyden's B is
    found = gradient.input_gradient(deq, x, linear_loss)[place]
    assert_close(found, gradient.input_gradient(deq, alone, linear_loss)[0], rtol=1e-5, atol=1e-5, equal_nan=True)


def monotone(splitting: Any, operator: Any, conv: bool, solver: Solver) -> MonotoneDEQ:
    torch.manual_seed(0)
    cell = splitting(operator(2, 3, (2, 3), 0.3) if conv else operator(12, 1, (1, 1), 0.3))
    shape = (2, 2, 3) if conv else (12, 1, 1)
    injection = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, shape))
    return MonotoneDEQ(injection, cell, nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES)), solver=solver)


@pytest.mark.parametrize("conv", [False, True], ids=["dense", "convolution"])
@pytest.mark.parametrize("operator", [Monotone, Contracting])
@pytest.mark.parametrize("splitting", [ForwardBackward, PeacemanRachford])
@given(methods(), st.lists(st.sampled_from([math.nan, math.inf, 1e300, 1e9, 0.0, 1.0]), min_size=20, max_size=20))
@settings(max_examples=20, deadline=None)
def test_a_monotone_model_answers_to_a_sample_as_if_its_neighbours_were_other(
    splitting: Any, operator: Any, conv: bool, solver: Solver, hostile: list[float]
) -> None:
    deq = monotone(splitting, operator, conv, solver)
    usual = torch.randn(6, 4)
    beside = torch.cat([usual[:1], torch.tensor(hostile).view(5, 4)])
    for answer in (lambda x: deq(x).detach(), lambda x: ThroughSolver().input_gradient(deq, x, linear_loss)):
        assert_close(answer(beside)[0], answer(usual)[0], rtol=0, atol=0, equal_nan=True)


@given(companies(), st.integers(1, 5), st.sampled_from([0.1, 0.3]))
@settings(max_examples=60, deadline=None)
def test_a_reversible_solve_is_undone_beside_neighbours_that_diverge(
    drawn: Company, steps: int, damping: float
) -> None:
    place, *batches = drawn
    deq = reversible(tempered(Picard()), steps, damping)
    for answer in (lambda x: deq(x).detach(), lambda x: Reversed().input_gradient(deq, x, linear_loss)):
        here, there = (answer(x)[place] for x in batches)
        assert_close(here, there, rtol=0, atol=0, equal_nan=True)
