"""PGD with momentum is Auto-PGD: its authors' own code, from the same starts, makes the same adversaries."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn
from torch.testing import assert_close

from robustdeq.attacks import PGD, MomentumPGD, StoppingPGD
from robustdeq.attacks.losses import correct, cross_entropy
from robustdeq.base.norms import L1, Norm

IMAGE = (1, 5, 6)
CLASSES = 5
EPS = {"Linf": 0.15, "L2": 1.0, "L1": 4.0}


class Network(nn.Module):
    """A small network with a rugged loss, which counts the samples it is asked about."""

    def __init__(self, seed: int, scale: float = 4.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, CLASSES)).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(scale)
        self.seen = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.layers(x)


class Never(nn.Module):
    """A model whose answer nothing changes, so that every run goes to its end."""

    def __init__(self, model: nn.Module, label: int) -> None:
        super().__init__()
        self.model, self.label = model, label
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits + 1e3 * nn.functional.one_hot(torch.tensor(self.label), CLASSES).to(logits)


def their_course(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, norm: str, steps: int) -> tuple[Tensor, Tensor]:
    """Every iterate that the authors' code asks a model about, and the loss there."""
    asked: list[Tensor] = []
    losses: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        logits = model(images)
        asked.append(images.detach().clone())
        losses.append(cross_entropy(logits, y).detach())
        return logits

    attack = APGDAttack(predict, n_iter=steps, norm=norm, eps=EPS[norm], device="cpu")
    attack.init_hyperparam(x)
    attack.attack_single_run(x, y, x_init=start)
    return torch.stack(asked), torch.stack(losses)


def our_course(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, norm: str, steps: int) -> Tensor:
    asked: list[Tensor] = []

    class Recording(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            asked.append(images.detach().clone())
            return model(images)

    class From(MomentumPGD):
        def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
            (i,) = [i for i in range(len(images)) if torch.equal(images[i], x[0])]
            return start[i : i + 1]

    images = x
    From.like(PGD(EPS[norm], norm=norm), steps, 1)(Recording().eval(), x, y)
    return torch.stack(asked)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["Linf", "L2"]), st.integers(1, 60))
def test_iterates_are_those_of_the_authors(seed: int, norm: str, steps: int) -> None:
    model = Network(seed)
    x = torch.rand(6, *IMAGE, dtype=torch.float64)
    y = torch.full((6,), seed % CLASSES)
    judge = Never(model, seed % CLASSES)
    start = (x + EPS["Linf"] * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    theirs, losses = their_course(judge, x, y, start, norm, steps)
    # Before its first checkpoint their code compares the first loss with the last entry of a buffer of zeros.
    rising = losses[1] > losses[0] if steps > 1 else torch.ones(6, dtype=torch.bool)
    ours = our_course(judge, x, y, start, norm, steps)
    assert len(ours) == len(theirs) == steps + 1
    scale = theirs.abs().amax()
    assert_close(ours[:, rising], theirs[:, rising], rtol=0, atol=1e-6 * float(scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_another_precision_than_the_images_leave_steps_as_long_as_they_are(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :CLASSES].to(dtype)

    x, y = torch.full((2, 6), 0.5), torch.zeros(2, dtype=torch.int64)
    attack = MomentumPGD(eps=0.1, step_size=0.0567, steps=1, norm="Linf", random_start=False)
    moved = (attack(Cast().eval(), x, y) - x)[:, :CLASSES].abs()
    assert_close(moved, torch.full_like(moved, 0.0567), rtol=1e-5, atol=0)


def test_first_success_is_kept_and_left_alone() -> None:
    model = Network(1)
    x = torch.rand(20, *IMAGE, dtype=torch.float64)
    y = model(x).argmax(dim=1).detach()
    attack = MomentumPGD.like(PGD(0.06), 12, 3)
    model.seen = 0
    found = attack(model, x, y)
    fooled = ~correct(model(found), y)
    assert 0 < fooled.sum() < 20
    assert model.seen - 20 < 20 * attack.cost.gradients * 0.9
    strangers = MomentumPGD.like(PGD(0.06), 12, 1)(model, x, y)
    first = ~correct(model(strangers), y)
    assert torch.equal(found[first], strangers[first])
    assert (fooled >= first).all()


@pytest.mark.parametrize("norm", ["Linf", "L2", L1()])
def test_steps_that_halve_end_higher_than_steps_that_do_not(norm: str | Norm) -> None:
    """On a concave loss whose peak lies inside the ball, momentum and halving find it; constant long steps do not."""
    peak = torch.full((4, *IMAGE), 0.5, dtype=torch.float64) + 0.02 * torch.rand(4, *IMAGE, dtype=torch.float64)

    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            height = -((x - peak[: len(x)]) ** 2).flatten(1).sum(dim=1)
            return torch.stack([-height, height], dim=1) + torch.tensor([1e3, 0.0])

    x, y = torch.full_like(peak, 0.5), torch.zeros(4, dtype=torch.int64)
    settings: dict[str, Any] = {"norm": norm, "criterion": "margin"}
    model, eps = Bowl().eval(), EPS[norm if isinstance(norm, str) else norm.name]
    with_momentum = MomentumPGD.like(PGD(eps, **settings), 60, 1)
    without = StoppingPGD.like(PGD(eps, with_momentum.step_size, **settings), 60, 1)
    ours, theirs = (model(attack(model, x, y))[:, 1].mean() for attack in (with_momentum, without))
    assert ours > 4 * theirs


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 100, 1000])
def test_checkpoints_are_those_of_the_paper(steps: int) -> None:
    """w_j = ⌈p_j N⌉ up to rounding, p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    found = [*MomentumPGD(steps=steps).checkpoints()]
    assert found == sorted(set(found))
    assert found[-1] <= steps
    if steps >= 100:
        expected = [share * steps for share in shares[1:] if share <= 1 + 1e-9]
        assert len(found) == len(expected)
        assert all(abs(ours - theirs) <= 1e-6 * steps for ours, theirs in zip(found, expected, strict=True))
