"""Gradients of a model that is called otherwise than alone: with lent weights, beside a diverged sample, cached."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from robustdeq.base.errors import InputError
from robustdeq.deq import DEQ
from robustdeq.deq.other_solve import OtherSolve
from robustdeq.deq.reversible import reversible
from robustdeq.gradients import SHINE, Exact, Gradient, JacobianFree, Phantom, ThroughSolver
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

D = 4
LAZY = (Exact(), JacobianFree(), SHINE())
GRADIENTS = (None, Phantom(steps=2, damping=0.5), *LAZY, ThroughSolver())
each_gradient = pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda gradient: type(gradient).__name__)
pytestmark = pytest.mark.usefixtures("float64")


class Smooth(nn.Module):
    """tanh(W z / 2 + b + u)."""

    def __init__(self, wrapped: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> None:
        super().__init__()
        self.layer = wrapped(nn.Linear(D, D))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.layer(z) / 2 + u)


class Steep(nn.Module):
    """Diverges where u is large, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.weight * (0.3 * z + u + torch.exp(z * u.abs()) - 1)


def model(cell: nn.Module, gradient: Gradient | None, solver: Solver | None = None) -> DEQ:
    injection = nn.Linear(D, D)
    nn.init.eye_(injection.weight)
    nn.init.zeros_(injection.bias)
    return DEQ(injection, cell, nn.Linear(D, 2), solver or Broyden(max_steps=8, tol=1e-6), gradient=gradient)


@each_gradient
def test_weights_that_are_lent_for_a_call_get_the_gradients(gradient: Gradient | None) -> None:
    deq, x = model(Smooth(), gradient), torch.randn(3, D)
    deq(x).sum().backward()
    lent = {name: weight.detach().clone().requires_grad_() for name, weight in deq.named_parameters()}
    with torch.no_grad():
        for weight in deq.parameters():
            weight.mul_(2)
    torch.func.functional_call(deq, lent, (x,)).sum().backward()
    for name, weight in deq.named_parameters():
        torch.testing.assert_close(lent[name].grad, weight.grad)


def test_a_backward_pass_that_keeps_its_graph_can_be_made_again() -> None:
    for gradient in LAZY:
        deq = model(Smooth(), gradient)
        loss = deq(torch.randn(3, D)).sum()
        first, second = (
            torch.autograd.grad(loss, [*deq.cell.parameters()], retain_graph=keep) for keep in (True, False)
        )
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("solver", [Broyden(8, 1e-4), Picard(8, 1e-4), Anderson(8, 1e-4)], ids=str)
@pytest.mark.parametrize("checkpoint", [False, True], ids=["recorded", "evaluated again"])
def test_a_diverged_sample_that_no_loss_reads_adds_nothing_to_the_gradients_of_weights(
    solver: Solver, checkpoint: bool
) -> None:
    deq = model(Steep(), ThroughSolver(checkpoint=checkpoint), solver)
    x = torch.full((3, D), 0.1)
    x[2] = 30.0
    assert deq.solve(x).diverged.tolist() == [False, False, True]
    found = torch.autograd.grad(deq(x)[:2].sum(), [*deq.parameters()])
    torch.testing.assert_close(found, torch.autograd.grad(deq(x[:2]).sum(), [*deq.parameters()]))


def test_cached_weights_are_refused_where_their_gradients_would_be_lost() -> None:
    deq, x = model(Smooth(weight_norm), Exact()), torch.randn(3, D)
    with parametrize.cached():
        with torch.no_grad():
            deq(x)
        with pytest.raises(InputError, match=r"parametrize\.cached\(\) keeps weights without their graph"):
            deq(x)


def test_another_solve_leaves_the_modes_of_the_parts_it_shares() -> None:
    deq = DEQ(nn.Dropout(0.5), Smooth(), nn.Sequential(nn.Dropout(0.5), nn.Linear(D, 2)), Broyden(4))
    deq.train().injection.eval()
    modes = [part.training for part in deq.modules()]
    assert reversible(deq).training
    OtherSolve("elsewhere", offset=0.1).model_of(deq)
    assert [part.training for part in deq.modules()] == modes
    assert not OtherSolve("elsewhere", offset=0.1).model_of(deq.eval()).training
