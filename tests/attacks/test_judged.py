"""Judged has the value of one model and the backward pass of another."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from cells import CLASSES, images, make_deq
from robustdeq.attacks import PGD, Judged
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState
from robustdeq.deq.model import DEQ
from robustdeq.gradients import (
    Defended,
    Ensemble,
    Exact,
    Gradient,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)

pytestmark = pytest.mark.usefixtures("float64")
GRADIENTS: list[Gradient] = [
    Exact(),
    Phantom(3),
    SimultaneousAdjoint(4),
    UnrolledIntermediate(2, 3, 0.5),
    ThroughSolver(EarlyState(2)),
    Ensemble(UnrolledIntermediate(steps=1, damping=1.0)),
]
DEFENSES: list[Defense] = [FinalState(), EarlyState(3), EnsembleState()]


def gradient_of(model: nn.Module, x: Tensor, cotangent: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    bar = cotangent if isinstance(cotangent, Tensor) else cotangent(logits)
    return torch.autograd.grad(logits, leaf, bar)[0]


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_value_is_the_targets_and_backward_the_surrogates(gradient: Gradient, defense: Defense) -> None:
    deq, x, y = make_deq().eval(), images(), torch.tensor([0, 2, 1])
    surrogate, target = Surrogate(deq, gradient), Defended(deq, defense)
    judged = Judged(surrogate, target)
    with torch.no_grad():
        expected = target(x)
        assert torch.equal(judged(x), expected)
    assert_close(judged(x.requires_grad_()).detach(), expected)
    cotangent = expected.softmax(dim=1) - nn.functional.one_hot(y, CLASSES)
    found = gradient_of(
        judged, x.detach(), lambda logits: logits.detach().softmax(1) - nn.functional.one_hot(y, CLASSES)
    )
    assert_close(found, gradient_of(surrogate, x.detach(), cotangent))
    assert found.abs().min() > 0


class Counting(nn.Module):
    """A cell that counts how often it is evaluated."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.count = cell, 0

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        self.count += 1
        return self.cell(z, u)


def counting() -> tuple[DEQ, Counting]:
    deq = make_deq().eval()
    deq.cell = cell = Counting(deq.cell)
    return deq, cell


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_true_gradient_of_the_target_takes_one_solve(defense: Defense) -> None:
    deq, cell = counting()
    surrogate, target, x = Surrogate(deq, ThroughSolver(defense)), Defended(deq, defense), images()
    gradient_of(target, x, torch.ones(3, CLASSES))
    once, cell.count = cell.count, 0
    found = gradient_of(Judged(surrogate, target), x, torch.ones(3, CLASSES))
    assert cell.count == once
    assert_close(found, gradient_of(surrogate, x, torch.ones(3, CLASSES)))


def test_no_surrogate_runs_where_no_gradient_is_asked_for() -> None:
    deq, cell = counting()
    surrogate, target = make_deq("convolution").eval(), Defended(deq, FinalState())

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    judged = Judged(Never(), target)
    with torch.no_grad():
        judged(images().requires_grad_())
    judged(images())
    assert cell.count > 0
    with pytest.raises(AssertionError):
        judged(images().requires_grad_())
    x = images()
    assert torch.equal(Judged(surrogate)(x), surrogate(x).detach())


class Broken(nn.Module):
    """A model whose logits, or only their gradients, are not finite for the samples marked."""

    def __init__(self, model: nn.Module, marked: Tensor, value: float, logits: bool) -> None:
        super().__init__()
        self.model, self.marked, self.value, self.logits = model, marked, value, logits

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        if self.logits:
            return logits.masked_fill(self.marked[:, None], self.value)
        return logits.detach() + torch.where(self.marked, self.value, 1.0)[:, None] * (logits - logits.detach())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", ["logits of the target", "gradients of the surrogate", "both, of one model"])
def test_sample_that_is_not_finite_is_constant_and_troubles_nobody(value: float, part: str) -> None:
    x, marked = torch.rand(4, 6), torch.tensor([False, True, False, False])
    surrogate, target = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)
    whole = {
        "logits of the target": lambda: Judged(surrogate, Broken(target, marked, value, logits=True)),
        "gradients of the surrogate": lambda: Judged(Broken(surrogate, marked, value, logits=False), target),
        "both, of one model": lambda: Judged(Broken(target, marked, value, logits=True)),
    }[part]()
    logits, gradient = whole(x), gradient_of(whole, x, torch.ones(4, CLASSES))
    reference = Judged(target if "one model" in part else surrogate, target)
    expected = gradient_of(reference, x, torch.ones(4, CLASSES))
    assert_close(logits[~marked], target(x)[~marked])
    assert_close(gradient[~marked], expected[~marked])
    assert (gradient[marked] == 0).all()
    if "logits" in part or "both" in part:
        assert (logits[marked] == 0).all()
        assert not whole.answers(x)[marked].isfinite().any()


def test_model_that_ignores_its_input_has_a_gradient_of_zero() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), CLASSES)

    assert (gradient_of(Judged(Constant()), torch.rand(2, 6), torch.ones(2, CLASSES)) == 0).all()


def test_backward_can_be_taken_again() -> None:
    x = images().requires_grad_()
    for gradient in GRADIENTS:
        logits = Judged(Surrogate(make_deq().eval(), gradient))(x)
        first, again = (torch.autograd.grad(logits, x, torch.ones_like(logits), retain_graph=True)[0] for _ in range(2))
        assert_close(first, again)


def test_pgd_climbs_a_judged_model() -> None:
    deq, x, y = make_deq().eval(), images().sigmoid(), torch.tensor([0, 2, 1])
    judged = Judged(Surrogate(deq, Phantom(5)), Defended(deq, EnsembleState()))

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            return cross_entropy(judged(x), y, reduction="none")

    assert (loss(PGD(0.1, 0.02, random_start=False)(judged, x, y)) > loss(x)).all()


def test_training_mode_is_that_of_the_models() -> None:
    deq = make_deq()
    for training in (False, True):
        assert Judged(Surrogate(deq.train(training), Phantom()), Defended(deq, FinalState())).training == training
