"""The margin and the targeted DLR against their authors' own code, and PGD on them."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack_targeted
from torch import Tensor, nn
from torch.testing import assert_close

from robustdeq.attacks import PGD, Cost, MarginPGD, TargetedDLRPGD
from robustdeq.attacks.losses import correct, margin, targeted_dlr, wrong_classes
from robustdeq.base.errors import InputError

pytestmark = pytest.mark.usefixtures("float64")
CLASSES = 6


class Network(nn.Module):
    """A small network of images (B, 1, 3, 4)."""

    def __init__(self, seed: int, classes: int = CLASSES, scale: float = 3.0) -> None:
        super().__init__()
        self.scale = scale
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, classes))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layers(x)


def labelled(model: nn.Module, count: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, 3, 4)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_losses_are_those_of_their_definitions(seed: int) -> None:
    torch.manual_seed(seed)
    logits, y = 4 * torch.randn(9, CLASSES), torch.randint(CLASSES, (9,))
    others = [[c for c in range(CLASSES) if c != label] for label in y.tolist()]
    exceeds = [max(row[c] for c in wrong) - row[label] for row, label, wrong in zip(logits, y, others, strict=True)]
    assert_close(margin(logits, y), torch.stack(exceeds))
    likely = wrong_classes(logits, y)
    for row, wrong, found in zip(logits, others, likely.tolist(), strict=True):
        assert found == sorted(wrong, key=lambda c: -float(row[c]))
    for rank in range(CLASSES - 1):
        theirs = APGDAttack_targeted.dlr_loss_targeted(SimpleNamespace(y_target=likely[:, rank]), logits, y)  # pyright: ignore
        assert_close(targeted_dlr(logits, y, likely[:, rank]), theirs)


def test_pgd_on_the_margin_is_pgd_with_that_loss() -> None:
    model = Network(0)
    x, y = labelled(model)
    attack = MarginPGD(0.2, 0.05, steps=4)
    expected = attack.start(x, torch.Generator().manual_seed(0))
    for _ in range(4):
        leaf = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(margin(model(leaf), y).sum(), leaf)
        moved = expected + 0.05 * gradient.sign()
        expected = moved.clamp(x - 0.2, x + 0.2).clamp(0, 1)
    assert_close(attack(model, x, y), expected)


def test_each_run_makes_for_the_next_class_from_the_starts_of_pgd_on_what_stands() -> None:
    model, judge = Network(1), Network(2)
    x, y = labelled(judge)
    attack = TargetedDLRPGD(0.3, 0.1, steps=3, restarts=CLASSES - 1)
    likely, generator = wrong_classes(judge(x), y), torch.Generator().manual_seed(0)
    expected, standing = x.clone(), torch.ones(len(x), dtype=torch.bool)
    for rank in range(CLASSES - 1):
        start = PGD.start(attack, x, generator)
        loss = partial(targeted_dlr, y=y, target=likely[:, rank])
        expected[standing] = PGD.run(attack, model, x, start, loss)[standing]
        standing &= correct(judge(expected), y)
    assert 0 < standing.sum() < len(x)
    assert_close(attack(model, x, y, target=judge), expected)


def test_scale_of_the_logits_changes_nothing() -> None:
    """Where the cross-entropy has vanished to rounding, the difference of logits ratio still leads somewhere."""
    model, steep = Network(3), Network(3, scale=1e4)
    x, y = labelled(model)
    attack = TargetedDLRPGD(0.3, 0.1, steps=3, restarts=2)
    assert_close(attack(steep, x, y), attack(model, x, y))


def test_costs_count_the_reading_of_the_classes() -> None:
    assert MarginPGD(steps=4, restarts=3).cost == Cost(12, 2)
    assert TargetedDLRPGD(steps=4, restarts=3).cost == Cost(12, 3)


@pytest.mark.parametrize(("classes", "restarts"), [(3, 1), (4, 4)])
def test_classes_that_do_not_suffice_are_named(classes: int, restarts: int) -> None:
    model = Network(0, classes)
    x, y = labelled(model)
    with pytest.raises(InputError, match=f"has {classes} classes, and .* {restarts} runs; climb another loss"):
        TargetedDLRPGD(restarts=restarts)(model, x, y)
    with pytest.raises(InputError, match="chooses its classes itself"):
        replace(TargetedDLRPGD(), targeted=True)
