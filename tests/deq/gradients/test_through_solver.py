"""The gradient through the solver is the derivative of what is computed, so it equals finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import dense
from cells import CELLS, CLASSES, TAILS, cross_entropy, images, make_deq
from diverging import BRIGHT, DIM, diverging
from robustdeq.deq.defenses import EarlyState, EnsembleState, FinalState, StateDefense, defended_logits
from robustdeq.deq.model import DEQ
from robustdeq.deq.tail import Unroll
from robustdeq.gradients import Defended, Surrogate, ThroughSolver
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

pytestmark = pytest.mark.usefixtures("float64")
SOLVERS: dict[str, Solver] = {
    "broyden": Broyden(max_steps=6, tol=0),
    "broyden-short-steps": Broyden(max_steps=6, tol=0, step_size=0.7),
    "broyden-limited": Broyden(max_steps=7, tol=0, limit=3),
    "broyden-limited-short-steps": Broyden(max_steps=7, tol=0, limit=3, step_size=0.7),
    "broyden-freezing": Broyden(max_steps=8, tol=1e-2),
    "broyden-freezing-last-short-steps": Broyden(max_steps=8, tol=3e-2, step_size=0.7, result="last", stop="abs"),
    "broyden-freezing-limited": Broyden(max_steps=8, tol=1e-2, limit=3),
    "broyden-line-search": Broyden(max_steps=6, tol=0, line_search=2),
    "broyden-freezing-line-search": Broyden(max_steps=8, tol=1e-2, line_search=2, step_size=1.2),
    "anderson": Anderson(max_steps=6, tol=0, history=3),
    "anderson-freezing": Anderson(max_steps=8, tol=2e-2, history=3, mixing=0.8),
    "picard": Picard(max_steps=6, tol=0, result="last"),
    "picard-freezing": Picard(max_steps=12, tol=2e-2, damping=0.8),
}
DEFENSES: dict[str, StateDefense] = {"final": FinalState(), "early": EarlyState(4), "ensemble": EnsembleState()}
READ_OUTS = {
    "final-step": (FinalState(), TAILS["step"]),
    "final-damped-from-image": (FinalState(), TAILS["damped-from-image"]),
    "final-image": (FinalState(), TAILS["image"]),
    "early": (EarlyState(4), TAILS["step"]),
    "ensemble": (EnsembleState(), TAILS["damped-from-image"]),
}
defenses = pytest.mark.parametrize("defense", DEFENSES.values(), ids=DEFENSES)
read_outs = pytest.mark.parametrize(("defense", "tail"), READ_OUTS.values(), ids=READ_OUTS)
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def defended_loss(deq: DEQ, defense: StateDefense) -> Callable[[Tensor], Tensor]:
    return lambda x: cross_entropy(defended_logits(deq, x, [defense])[0])


def assert_is_derivative(deq: DEQ, defense: StateDefense, x: Tensor) -> None:
    expected = dense.finite_differences(defended_loss(deq, defense), x)
    scale = expected.abs().amax()
    for checkpoint in (False, True):
        found = ThroughSolver(defense, checkpoint).input_gradient(deq, x, cross_entropy)
        assert_close(found, expected, rtol=1e-6, atol=1e-6 * scale.item())


@read_outs
@solvers
def test_is_the_derivative_of_the_defended_loss(defense: StateDefense, solver: Solver, tail: Unroll) -> None:
    deq, x = make_deq("contractive", solver, tail), images()
    steps = deq.solve(x).steps
    assert (len(steps.unique()) > 1) == (solver.tol > 0)
    assert_is_derivative(deq, defense, x)


class Halving(nn.Module):
    """z/2 + u, all residuals of which are parallel, to the last digit where u is short."""

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return z / 2 + u


@defenses
def test_parallel_residuals_without_a_ridge_have_the_gradient_of_the_newest_alone(defense: StateDefense) -> None:
    found, expected = (
        ThroughSolver(defense).input_gradient(
            DEQ(nn.Identity(), Halving(), nn.Identity(), solver, TAILS["step"]),
            torch.arange(3.0 * CLASSES).view(3, CLASSES),
            cross_entropy,
        )
        for solver in (Anderson(max_steps=5, tol=0, history=3, ridge=0.0), Picard(max_steps=5, tol=0))
    )
    assert_close(found, expected)


@defenses
@pytest.mark.parametrize("cell", [name for name in CELLS if name != "contractive"])
@pytest.mark.parametrize("solver", ["broyden-limited-short-steps", "broyden-freezing", "anderson"])
def test_is_the_derivative_for_every_cell(defense: StateDefense, cell: str, solver: str) -> None:
    assert_is_derivative(make_deq(cell, SOLVERS[solver]), defense, images())


@pytest.mark.parametrize("defense", [EarlyState(1), *DEFENSES.values()], ids=repr)
@pytest.mark.parametrize(
    "settings", [{}, {"step_size": 1.8}, {"step_size": 1.8, "limit": 2}, {"step_size": 0.9, "tol": 1e-3}], ids=repr
)
def test_is_the_derivative_where_a_line_search_shortens_steps(defense: StateDefense, settings: dict[str, Any]) -> None:
    deq = make_deq("overshooting", Broyden(**{"max_steps": 5, "tol": 0, "line_search": 2} | settings))
    x = images()
    shortenings = deq.solve(x).shortenings
    assert shortenings is not None
    assert shortenings[0].max() <= 0.5
    assert_is_derivative(deq, defense, x)


def test_first_step_is_shortened_twice_and_so_is_its_cotangent() -> None:
    deq, x = make_deq("overshooting", Broyden(max_steps=5, tol=0, line_search=2, step_size=1.8)), images()
    shortenings = deq.solve(x).shortenings
    assert shortenings is not None
    assert shortenings[0].tolist() == [0.25] * len(x)
    assert_is_derivative(deq, EarlyState(1), x)


@pytest.mark.parametrize("defense", [FinalState(), EnsembleState()], ids=["final", "ensemble"])
@solvers
def test_does_not_depend_on_checkpointing(defense: StateDefense, solver: Solver) -> None:
    deq, x = make_deq("bound", solver), images()
    kept = ThroughSolver(defense, checkpoint=False).input_gradient(deq, x, cross_entropy)
    again = ThroughSolver(defense, checkpoint=True).input_gradient(deq, x, cross_entropy)
    assert_close(kept, again, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("solver", "tail"), [("broyden-freezing-limited", "step"), ("anderson-freezing", "image")])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_trains_every_parameter_with_its_derivative(cell: str, solver: str, checkpoint: bool, tail: str) -> None:
    deq, x = make_deq(cell, SOLVERS[solver], TAILS[tail], ThroughSolver(checkpoint=checkpoint)), images()

    def loss() -> Tensor:
        return cross_entropy(deq(x)).sum()

    loss().backward()
    for parameter in deq.parameters():
        assert parameter.grad is not None
        entry = parameter.data.flatten()[-1]
        expected = dense.parameter_differences(loss, entry)
        assert_close(parameter.grad.flatten()[-1], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("defense", [EarlyState(3), EnsembleState()], ids=["early", "ensemble"])
def test_trains_through_the_read_out_of_a_defense(defense: StateDefense) -> None:
    deq, x = make_deq("expansive", gradient=ThroughSolver(defense)), images()
    cross_entropy(deq.head(ThroughSolver(defense).read(deq.solution(x)))).sum().backward()
    weight = deq.cell.weight
    assert weight.grad is not None
    expected = dense.parameter_differences(lambda: defended_loss(deq, defense)(x).sum(), weight.data[2, 3])
    assert_close(weight.grad[2, 3], expected, rtol=1e-6, atol=1e-8)


@defenses
@pytest.mark.parametrize("solver", ["broyden-freezing", "broyden-line-search", "anderson"])
def test_is_the_backward_pass_of_the_defended_model(defense: StateDefense, solver: str) -> None:
    deq, x = make_deq("convolution", SOLVERS[solver]), images().requires_grad_()
    defended = Defended(deq, defense)
    logits = defended(x)
    with torch.no_grad():
        assert_close(logits.detach(), defended(x), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(cross_entropy(logits).sum(), x)
    assert_close(gradient, ThroughSolver(defense).input_gradient(deq, x, cross_entropy), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_logits_are_those_of_the_defense_where_the_solve_diverges_too(checkpoint: bool) -> None:
    deq, x = diverging(), torch.cat([DIM, BRIGHT])
    surrogate = Surrogate(deq, ThroughSolver(FinalState(), checkpoint))
    logits = surrogate(x)
    assert logits.isnan().any(dim=1).tolist() == 4 * [False] + 4 * [True]
    assert_close(logits, Defended(deq, FinalState())(x), equal_nan=True)
    with torch.no_grad():
        assert_close(surrogate(x), logits, equal_nan=True)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("solver", [Broyden, Anderson, Picard])
def test_steps_that_no_sample_takes_cost_nothing(checkpoint: bool, solver: Callable[..., Solver]) -> None:
    x = images()

    def evaluations(max_steps: int) -> int:
        deq = make_deq("contractive", solver(max_steps=max_steps, tol=1e-1))
        assert deq.solve(x).steps.amax() < 12
        calls: list[int] = []
        deq.cell.register_forward_hook(lambda *_: calls.append(1))
        ThroughSolver(checkpoint=checkpoint).input_gradient(deq, x, cross_entropy)
        return len(calls)

    assert evaluations(12) == evaluations(40)
