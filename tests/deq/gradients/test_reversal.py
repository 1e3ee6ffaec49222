"""A reversible solve: it can be undone, rests where f does, and its gradient is that through the solver."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustdeq as rd
from cells import IMAGE, make_deq
from robustdeq.attacks.losses import cross_entropy
from robustdeq.base.errors import InputError
from robustdeq.base.imports import imported
from robustdeq.deq.reversible import Reversible, reversible
from robustdeq.gradients import Reversed, ThroughSolver
from robustdeq.models import DEQ
from robustdeq.solvers import Broyden
from robustdeq.study.stopwatch import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")
EXAMPLE = Path(__file__).parents[3] / "examples" / "reversible.py"
Y = torch.tensor([0, 2, 1])


def images(seed: int = 0) -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def conv() -> DEQ:
    torch.manual_seed(0)
    return rd.models.conv("digits", in_channels=1).double().eval()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), damping=st.floats(0.1, 0.9))
def test_a_step_is_undone_by_the_formula(conv: DEQ, seed: int, damping: float) -> None:
    x = images(seed)
    with torch.no_grad():
        u = conv.injection(x)
        cell = Reversible(conv.cell, damping).bind(u)
        y, z = torch.randn_like(u), torch.randn_like(u)
        stepped_y, stepped_z = cell.function((y, z))
        back_z = (stepped_z - damping * cell.inner(stepped_y)) / (1 - damping)
        back_y = (stepped_y - damping * cell.inner(back_z)) / (1 - damping)
    torch.testing.assert_close((back_y, back_z), (y, z), rtol=1e-7, atol=1e-9)


def test_it_rests_where_f_does() -> None:
    deq = make_deq("contractive", solver=Broyden(max_steps=40, tol=1e-12)).double()
    x = torch.rand(4, *IMAGE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(reversible(deq, steps=200)(x), deq(x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("damping", [0.3, 0.7])
@pytest.mark.parametrize("tail", [rd.models.Unroll(0), rd.models.Unroll(2, 1.0)], ids=["no tail", "tail"])
def test_gradient_is_that_through_the_solver(conv: DEQ, damping: float, tail: rd.models.Unroll) -> None:
    x = images()
    deq = reversible(conv, steps=6, damping=damping).with_settings(tail=tail)
    loss = partial(cross_entropy, y=Y)
    true = ThroughSolver().input_gradient(deq, x, loss)
    torch.testing.assert_close(Reversed().input_gradient(deq, x, loss), true, rtol=1e-4, atol=1e-7)
    logits = Reversed().logits(deq, x)
    torch.testing.assert_close(logits.detach(), deq(x).detach(), rtol=1e-10, atol=1e-12)
    weights = list(deq.parameters())
    assert len(weights) == len(list(conv.parameters()))
    found, expected = (
        torch.autograd.grad(loss(gradient.logits(deq, x)).sum(), weights) for gradient in (Reversed(), ThroughSolver())
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_final_state_that_takes_one_more_application_of_f_is_no_state_of_the_solve(conv: DEQ) -> None:
    deq = reversible(conv, steps=6).with_settings(tail=rd.models.Unroll(0, from_image=True))
    with pytest.raises(InputError, match="this solve cannot be undone"):
        rd.Surrogate(deq, Reversed())


def test_single_precision_is_enough_for_f(conv: DEQ) -> None:
    """Double precision of the states alone undoes steps of an f in single precision to the last digit."""
    single, x, loss = copy.deepcopy(conv).float(), images().float(), partial(cross_entropy, y=Y)
    deq = reversible(single, steps=8, damping=0.4)
    found, true = (gradient.input_gradient(deq, x, loss) for gradient in (Reversed(), ThroughSolver()))
    torch.testing.assert_close(found, true, rtol=1e-3, atol=1e-5 * float(true.abs().max()))
    with pytest.raises(InputError, match="undoing 60 steps misses the state they began in by"):
        Reversed().input_gradient(reversible(single, steps=60, damping=0.8), x, loss)


def test_it_trains_a_model_and_attacks_it(conv: DEQ) -> None:
    deq = reversible(conv).with_settings(gradient=Reversed())
    x = images()
    torch.autograd.grad(cross_entropy(deq(x), Y).sum(), list(deq.parameters()))
    surrogate = rd.gradients.Surrogate(deq, Reversed())
    adversaries = rd.attacks.PGD(0.2, 0.05, steps=10)(surrogate, x, deq(x).argmax(dim=1))
    with torch.no_grad():
        assert (
            cross_entropy(deq(adversaries), deq(x).argmax(dim=1)).mean()
            > cross_entropy(deq(x), deq(x).argmax(dim=1)).mean()
        )


def test_its_memory_does_not_grow_with_the_steps(conv: DEQ) -> None:
    x, loss = torch.rand(16, 1, 8, 8, dtype=torch.float64), partial(cross_entropy, y=torch.arange(16) % 10)
    peaks = {
        (gradient, steps): peak_bytes(partial(gradient.input_gradient, reversible(conv, steps, damping=0.05), x, loss))
        for gradient in (Reversed(), ThroughSolver(checkpoint=True))
        for steps in (8, 64)
    }
    assert peaks[Reversed(), 64] < 1.1 * peaks[Reversed(), 8]
    assert peaks[ThroughSolver(checkpoint=True), 64] > 3 * peaks[ThroughSolver(checkpoint=True), 8]


def test_what_cannot_be_undone_is_refused(conv: DEQ) -> None:
    sentence = "cannot be undone; make the model with `rd.models.reversible`"
    loss = partial(cross_entropy, y=Y)
    ready = reversible(conv)
    for deq in (conv, ready.with_settings(solver=Broyden()), ready.with_settings(tail=rd.models.Unroll(2, 0.5))):
        with pytest.raises(InputError, match=sentence):
            Reversed().input_gradient(deq, images(), loss)
    with pytest.raises(InputError, match="damping is 1"):
        reversible(conv, damping=1)

    class Two(nn.Module):
        def initial_state(self, u: Tensor) -> tuple[Tensor, Tensor]:
            return u, u

        def forward(self, z: tuple[Tensor, Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
            return z

    with pytest.raises(InputError, match="the state is several tensors"):
        reversible(DEQ(nn.Identity(), Two(), nn.Identity()))(torch.rand(2, 3, dtype=torch.float64))


@pytest.mark.slow
def test_example_compares_memory() -> None:
    error, (undone, checkpointed, kept) = imported(f"{EXAMPLE}:compared")(0.1, 8)
    assert error < 0.05
    assert undone < checkpointed < kept
