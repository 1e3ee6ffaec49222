"""Worst-case PGD keeps the first iterate that succeeds, and attacks only what still stands."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from cells import CLASSES, images, make_deq
from robustdeq.attacks import PGD, StoppingPGD
from robustdeq.attacks.ascent import Ascent
from robustdeq.attacks.losses import correct
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState
from robustdeq.gradients import Defended, Gradient, Phantom, Surrogate, ThroughSolver

pytestmark = pytest.mark.usefixtures("float64")
IMAGE = (1, 3, 4)


class Counting(nn.Module):
    """A small network that counts the samples it is asked about."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, CLASSES))
        self.seen: list[int] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return 3 * self.layers(x)


def first_success(attack: PGD, surrogate: nn.Module, target: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Every iterate of one plain run on the whole batch, and of them the first that fools the target, or the last."""
    ascent = Ascent.begin(surrogate, target, x, y, attack.seed)
    ascent.begin_at(attack.start)
    start = ascent.found
    iterates = [start, *(replace(attack, steps=n)(surrogate, x, y) for n in range(1, attack.steps + 1))]
    with torch.no_grad():
        fooled = torch.stack([correct(target(iterate), y) == attack.targeted for iterate in iterates])
    first = torch.where(fooled.any(dim=0), fooled.int().argmax(dim=0), attack.steps)
    return torch.stack(iterates)[first, torch.arange(len(x))], first


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["Linf", "L2"]), st.floats(0.02, 0.3), st.booleans(), st.booleans())
def test_first_success_of_plain_pgd_is_kept(seed: int, norm: str, eps: float, targeted: bool, random: bool) -> None:
    model = Counting(seed)
    x, y = torch.rand(12, *IMAGE), torch.randint(CLASSES, (12,))
    plain = PGD(eps, eps / 3, steps=5, norm=norm, seed=seed, targeted=targeted, random_start=random)
    expected, first = first_success(plain, model, model, x, y)
    model.seen.clear()
    found = StoppingPGD(**vars(plain))(model, x, y)
    assert_close(found, expected)
    active = [int((first >= n).sum()) for n in range(5)]
    assert [count for count in model.seen if count] == [count for count in (*active, int((first == 5).sum())) if count]


@pytest.mark.parametrize("gradient", [ThroughSolver(FinalState()), ThroughSolver(EarlyState(2)), Phantom(3)], ids=repr)
@pytest.mark.parametrize("defense", [FinalState(), EnsembleState()], ids=repr)
def test_the_defense_decides(gradient: Gradient, defense: Defense) -> None:
    deq, x = make_deq().eval(), torch.rand(12, *images().shape[1:], generator=torch.Generator().manual_seed(0))
    surrogate, target = Surrogate(deq, gradient), Defended(deq, defense)
    with torch.no_grad():
        y = target(x).argmax(dim=1)
    plain = PGD(0.3, 0.08, steps=6)
    expected, first = first_success(plain, surrogate, target, x, y)
    assert len(first.unique()) > 2
    assert_close(StoppingPGD(**vars(plain))(surrogate, x, y, target=target), expected)


def test_restarts_attack_what_has_withstood_every_run() -> None:
    model = Counting(3)
    x = torch.rand(20, *IMAGE)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    attack = StoppingPGD(0.06, 0.02, steps=4, restarts=3)
    ascent = Ascent.begin(model, model, x, y, attack.seed)
    standing = torch.ones(20, dtype=torch.bool)
    expected = x.clone()
    for _ in range(attack.restarts):
        ascent.begin_at(attack.start)
        start = ascent.found.clone()
        once = StoppingPGD(0.06, 0.02, steps=4, random_start=False)
        for i in standing.nonzero()[:, 0].tolist():
            leaf = start[i : i + 1]
            expected[i] = _from(once, model, x[i : i + 1], leaf, y[i : i + 1])
        with torch.no_grad():
            standing &= correct(model(expected), y)
    assert 0 < standing.sum() < 20
    assert_close(attack(model, x, y), expected)


def _from(attack: PGD, model: nn.Module, x: Tensor, start: Tensor, y: Tensor) -> Tensor:
    """A run from a given start, one sample and one gradient at a time."""
    for _ in range(attack.steps):
        leaf = start.detach().requires_grad_()
        logits = model(leaf)
        if logits.argmax() != y:
            return start[0]
        (gradient,) = torch.autograd.grad(attack.loss(logits, y).sum(), leaf)
        start = (start + attack.step_size * gradient.sign()).clamp(x - attack.eps, x + attack.eps).clamp(0, 1)
    return start[0]


def test_a_sample_without_finite_logits_is_not_attacked_further() -> None:
    class Broken(Counting):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1)[:, :1] > 0.9, torch.nan, super().forward(x))

    model = Broken(1)
    x = torch.rand(6, *IMAGE) / 2
    x[2, 0, 0, 0] = 0.95
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[2] = 0
    found = StoppingPGD(0.01, 0.005, steps=3, random_start=False)(model, x, y)
    assert torch.equal(found[2], x[2])
    assert (found != x).flatten(1).any(dim=1).sum() == 5
