"""Gradients of a model that is called otherwise than alone: with lent weights, beside a diverged sample, cached."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from cells import images, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq import DEQ
from robustdeq.deq.other_solve import OtherSolve
from robustdeq.deq.reversible import reversible
from robustdeq.gradients import SHINE, Exact, Gradient, JacobianFree, Phantom, ThroughSolver
from robustdeq.solvers import Anderson, Broyden, Picard, Solver

LAZY = (Exact(), JacobianFree(), SHINE())
GRADIENTS = (None, Phantom(steps=2, damping=0.5), *LAZY, ThroughSolver())
pytestmark = pytest.mark.usefixtures("float64")


class Steep(nn.Module):
    """Diverges where u is large, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.weight * (0.3 * z + u + torch.exp(z * u.abs()) - 1)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda gradient: type(gradient).__name__)
def test_weights_that_are_lent_for_a_call_get_the_gradients(gradient: Gradient | None) -> None:
    deq, x = make_deq(gradient=gradient), images()
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
        deq = make_deq(gradient=gradient)
        loss = deq(images()).sum()
        first, second = (
            torch.autograd.grad(loss, [*deq.cell.parameters()], retain_graph=keep) for keep in (True, False)
        )
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("tol", [1e-4, 0.0])
@pytest.mark.parametrize("method", [Broyden, Picard, Anderson])
@pytest.mark.parametrize("checkpoint", [False, True], ids=["recorded", "evaluated again"])
def test_a_diverged_sample_that_no_loss_reads_adds_nothing_to_the_gradients_of_weights(
    method: type[Solver], tol: float, checkpoint: bool
) -> None:
    gradient = ThroughSolver(checkpoint=checkpoint)
    deq = DEQ(nn.Identity(), Steep(), nn.Linear(4, 2), method(8, tol), gradient=gradient)
    x = torch.full((3, 4), 0.1)
    x[2] = 30.0
    assert deq.solve(x).diverged.tolist() == [False, False, True]
    found = torch.autograd.grad(deq(x)[:2].sum(), [*deq.parameters()])
    torch.testing.assert_close(found, torch.autograd.grad(deq(x[:2]).sum(), [*deq.parameters()]))


def test_cached_weights_are_refused_where_their_gradients_would_be_lost() -> None:
    deq, x = make_deq("convolution"), images()
    weight_norm(deq.cell.get_submodule("convolution"))
    with parametrize.cached():
        with torch.no_grad():
            deq(x)
        with pytest.raises(InputError, match=r"parametrize\.cached\(\) keeps weights without their graph"):
            deq(x)


def test_another_solve_leaves_the_modes_of_the_parts_it_shares() -> None:
    deq = make_deq().train()
    deq.injection.eval()
    modes = [part.training for part in deq.modules()]
    assert reversible(deq).training
    OtherSolve("elsewhere", offset=0.1).model_of(deq)
    assert [part.training for part in deq.modules()] == modes
    assert not OtherSolve("elsewhere", offset=0.1).model_of(deq.eval()).training
