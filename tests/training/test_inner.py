"""Attacks that serve to train: one step from noise, and solves that go on from the last."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from cells import CLASSES, IMAGE, images, make_deq
from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError
from robustdeq.gradients import Phantom, ThroughSolver
from robustdeq.solvers import Broyden
from robustdeq.training import NFGSM
from robustdeq.training.inner import WarmStarted

pytestmark = pytest.mark.usefixtures("float64")
Y = torch.tensor([0, 2, 1, 1])
shares = st.floats(0.01, 1.0)


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def loss(logits: Tensor) -> Tensor:
    return cross_entropy(logits, Y, reduction="none")


def made(attack: PGD, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Where an attack starts, and what it makes."""
    start = attack.start(x, torch.Generator().manual_seed(seed))
    return start, attack.run(network(), x, start, loss)


@settings(max_examples=25, deadline=None)
@given(eps=shares, step_size=shares, noise=st.floats(0.1, 3.0), seed=st.integers(0, 9), targeted=st.booleans())
def test_nfgsm_takes_one_step_from_noise_and_is_not_projected(
    eps: float, step_size: float, noise: float, seed: int, targeted: bool
) -> None:
    x = torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(seed))
    start, found = made(NFGSM(eps, step_size, noise=noise, targeted=targeted), x, seed)
    assert 0.5 * noise * eps < (start - x).abs().max() <= noise * eps
    assert ((start - x) < 0).any() and ((start - x) > 0).any()
    at = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(network()(at)).sum(), at)
    step = -step_size if targeted else step_size
    assert_close(found, (start + step * gradient.sign()).clamp(0, 1))


def test_nfgsm_leaves_the_ball_where_fgsm_from_a_random_start_is_projected_onto_it() -> None:
    x = torch.full((4, *IMAGE), 0.5)
    _, free = made(NFGSM(0.1, 0.1), x, 0)
    start, projected = made(PGD(0.1, 0.125, steps=1), x, 0)
    assert (free - x).abs().max() > 0.2
    assert (start - x).abs().max() <= 0.1
    assert (projected - x).abs().max() == pytest.approx(0.1)
    assert (projected - start).abs().min() < 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NFGSM(steps=2), "N-FGSM makes 1 step in the norm Linf"),
        (lambda: NFGSM(norm="L2"), "N-FGSM makes 1 step in the norm Linf"),
        (lambda: NFGSM(noise=0.0), "noise is 0.0"),
        (lambda: NFGSM(noise=float("nan")), "noise is nan"),
        (lambda: NFGSM(random_start=False), "random_start False"),
        (lambda: replace(NFGSM(), eps=-1.0), "eps is -1"),
        (lambda: NFGSM(step_size=0.0), "step_size is 0"),
    ],
)
def test_nfgsm_that_cannot_be_is_refused(make: Callable[[], NFGSM], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("gradient", [Phantom(), ThroughSolver()], ids=repr)
def test_first_solve_is_the_usual_one_and_later_ones_go_on(gradient: Phantom | ThroughSolver) -> None:
    deq, x = make_deq("expansive", Broyden(max_steps=6, tol=0)), images(4)
    surrogate = WarmStarted(deq, gradient, steps=2)
    assert surrogate.state is None
    assert_close(surrogate.input_gradient(x, loss), gradient.input_gradient(deq, x, loss))
    states = [surrogate.state]
    for _ in range(2):
        surrogate.input_gradient(x, loss)
        states.append(surrogate.state)
    continued = [deq.solve(x).solution]
    for _ in range(2):
        u = deq.injection(x)
        solver = replace(deq.solver, max_steps=2)
        continued.append(solver.solve(lambda z, u=u: deq.cell(z, u), continued[-1]).solution)
    assert_close(states, continued)
    assert deq.solver.max_steps == 6
    assert all(parameter.requires_grad for parameter in deq.parameters())
