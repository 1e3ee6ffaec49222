"""A surrogate's backward pass is its gradient, and a loss is one value per sample."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cells import TAILS, cross_entropy, images, linear_loss, make_deq
from robustdeq.base.errors import InputError
from robustdeq.deq.defenses import EarlyState, EnsembleState, defended_logits
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Gradient,
    JacobianFree,
    Neumann,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.solvers import Broyden

pytestmark = pytest.mark.usefixtures("float64")
ONE_STATE: list[Gradient] = [
    Exact(),
    Phantom(),
    Neumann(),
    SHINE(),
    SHINE(4),
    JacobianFree(),
    UnrolledIntermediate(3, 2, 0.5),
    UnrolledIntermediate(),
    ThroughSolver(),
    ThroughSolver(EarlyState(2), checkpoint=True),
    ThroughSolver(EnsembleState()),
]
SEVERAL_STATES: list[Gradient] = [
    SimultaneousAdjoint(3),
    SimultaneousAdjoint(step_size=0.5, transpose=False),
    Ensemble(SimultaneousAdjoint()),
]
LINEAR_ENSEMBLES: list[Gradient] = [Ensemble(UnrolledIntermediate(steps=2, damping=0.5))]
CASES = [(gradient, loss) for gradient in ONE_STATE for loss in (cross_entropy, linear_loss)]
CASES += [(gradient, linear_loss) for gradient in SEVERAL_STATES + LINEAR_ENSEMBLES]
EVERY = ONE_STATE + SEVERAL_STATES + LINEAR_ENSEMBLES


@pytest.mark.parametrize(("gradient", "loss"), CASES, ids=lambda case: getattr(case, "__name__", repr(case)))
@pytest.mark.parametrize("cell", ["expansive", "bound", "convolution"])
def test_backward_pass_is_the_gradient(gradient: Gradient, loss: object, cell: str) -> None:
    deq, x = make_deq(cell, Broyden(max_steps=6, tol=1e-1), TAILS["damped-from-image"]), images().requires_grad_()
    surrogate = Surrogate(deq, gradient)
    (found,) = torch.autograd.grad(loss(surrogate(x)).sum(), x)
    expected = gradient.input_gradient(deq, x, loss)
    assert expected.abs().amax() > 1e-3
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert_close(surrogate.input_gradient(x, loss), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("gradient", "defense"),
    [(ThroughSolver(EarlyState(2)), EarlyState(2)), (SimultaneousAdjoint(3), EarlyState(3))]
    + [(Ensemble(family), EnsembleState()) for family in (SimultaneousAdjoint(), UnrolledIntermediate())],
    ids=repr,
)
def test_logits_are_those_of_the_state_it_reads(gradient: Gradient, defense: object) -> None:
    deq, x = make_deq("expansive"), images()
    assert_close(Surrogate(deq, gradient)(x), defended_logits(deq, x, [defense])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", EVERY, ids=repr)
def test_gradient_leaves_the_model_as_it_was(gradient: Gradient) -> None:
    deq, x = make_deq("bound"), images()
    gradient.input_gradient(deq, x, linear_loss)
    assert not x.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in deq.parameters())


@pytest.mark.parametrize("gradient", EVERY, ids=repr)
def test_gradient_can_be_taken_inside_no_grad(gradient: Gradient) -> None:
    deq, x = make_deq("bound"), images()
    expected = gradient.input_gradient(deq, x, linear_loss)
    with torch.no_grad():
        assert_close(gradient.input_gradient(deq, x, linear_loss), expected, rtol=0, atol=0)


@pytest.mark.parametrize("gradient", EVERY, ids=repr)
@pytest.mark.parametrize("reduction", [torch.sum, torch.mean])
def test_loss_that_is_not_per_sample_is_refused(gradient: Gradient, reduction: object) -> None:
    def reduced(logits: Tensor) -> Tensor:
        return reduction(logits)

    with pytest.raises(InputError, match=r"the loss returned shape \(\) for 3 samples.*reduction='none'"):
        gradient.input_gradient(make_deq(), images(), reduced)


@pytest.mark.parametrize(
    "gradient",
    [UnrolledIntermediate(8), SimultaneousAdjoint(8), ThroughSolver(EarlyState(8))],
    ids=repr,
)
def test_state_that_the_model_lacks_is_refused(gradient: Gradient) -> None:
    with pytest.raises(InputError, match="state 8 does not exist in this model"):
        Surrogate(make_deq(), gradient)
