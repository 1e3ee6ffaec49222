"""Losses against their definitions and their authors' own code, and attacks that make for one class after another."""

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

from robustdeq.attacks import PGD, ByDistance, ByLogits, MomentumPGD, MultiTargeted, ThreatModel
from robustdeq.attacks.ascent import Ascent
from robustdeq.attacks.losses import (
    correct,
    margin,
    probability_margin,
    targeted_dlr,
    targeted_margin,
    targeted_probability_margin,
    wrong_classes,
)
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


@given(st.integers(0, 10**6))
def test_margins_of_probabilities_are_those_of_the_softmax(seed: int) -> None:
    torch.manual_seed(seed)
    logits, y = 4 * torch.randn(9, CLASSES), torch.randint(CLASSES, (9,))
    p, target = logits.softmax(dim=1), wrong_classes(logits, y)[:, 1]
    rows = torch.arange(9)
    assert_close(targeted_probability_margin(logits, y, target), p[rows, target] - p[rows, y])
    assert_close(probability_margin(logits, y), p[rows, wrong_classes(logits, y)[:, 0]] - p[rows, y])


def test_each_run_makes_for_the_next_class_from_the_starts_of_pgd_on_what_stands() -> None:
    model, judge = Network(1), Network(2)
    x, y = labelled(judge)
    pgd = PGD(0.3, 0.1, steps=3)
    likely, ascent = wrong_classes(judge(x), y), Ascent.begin(model, judge, x, y, pgd.seed)
    expected, standing = x.clone(), torch.ones(len(x), dtype=torch.bool)
    for rank in range(CLASSES - 1):
        ascent.begin_at(pgd.start)
        loss = partial(targeted_dlr, y=y, target=likely[:, rank])
        expected[standing] = pgd.run(model, x, ascent.found, loss)[standing]
        standing &= correct(judge(expected), y)
    assert 0 < standing.sum() < len(x)
    assert_close(MultiTargeted(pgd)(model, x, y, target=judge), expected)


@pytest.mark.parametrize("attack", [PGD(0.3, 0.1, steps=3), MomentumPGD(0.3, 0.6, steps=6)])
def test_scale_of_the_logits_changes_nothing(attack: PGD) -> None:
    """Where the cross-entropy has vanished to rounding, the difference of logits ratio still leads somewhere."""
    model, steep = Network(3), Network(3, scale=1e4)
    x, y = labelled(model)
    targeted = MultiTargeted(attack, targets=2)
    assert_close(targeted(steep, x, y), targeted(model, x, y))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_nearest_boundaries_come_first(norm: str) -> None:
    """Of a linear model the distances are known, and the least radius that reaches a class is the distance to it."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.linspace(0.5, 4, CLASSES).view(-1, *[1] * (parameter.ndim - 1)))
    x, y = labelled(model)
    (weight, bias), rows = (p.detach() for p in model.parameters()), torch.arange(len(x))
    logits, order = (x.flatten(1) @ weight.T + bias), {"Linf": 1, "L2": 2}[norm]
    slopes = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=order, dim=2)
    distances = ((logits[rows, y, None] - logits) / slopes).scatter(1, y[:, None], torch.inf)
    threat = ThreatModel(0.1, norm)
    expected = distances.argsort(dim=1)[:, :-1]
    assert torch.equal(ByDistance(CLASSES).targets(model, logits, x, y, threat), expected)
    likely = ByLogits().targets(model, logits, x, y, threat)
    assert not torch.equal(likely, expected)
    few = ByDistance(2).targets(model, logits, x, y, threat)
    assert torch.equal(few[:, 2:], likely[:, 2:])
    assert torch.equal(few[:, :2].sort(dim=1).values, likely[:, :2].sort(dim=1).values)
    near = distances.gather(1, few)
    assert (near[:, 0] <= near[:, 1]).all()


def test_a_class_that_has_no_gradient_comes_last() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pixels = x.flatten(1)
            return torch.stack([pixels[:, 0], 0 * pixels[:, 1] + pixels[:, 0].detach(), pixels[:, 1]], dim=1)

    x, y = torch.full((2, 1, 3, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    x[:, 0, 0, 0] = 0.9
    targets = ByDistance().targets(Flat().eval(), Flat()(x), x, y, ThreatModel(0.1))
    assert targets.tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("criterion", "classes"), [("targeted_dlr", 3), ("targeted_margin", 1)])
def test_classes_that_do_not_suffice_are_named(criterion: str, classes: int) -> None:
    model = Network(0, classes)
    x, y = labelled(model)
    named = criterion.replace("_", " ")
    with pytest.raises(InputError, match=rf"the {named} needs \d classes and the model has {classes}; climb another"):
        MultiTargeted(PGD(), criterion=criterion)(model, x, y)


def test_a_loss_that_knows_no_target_is_refused() -> None:
    with pytest.raises(
        InputError, match="'cross_entropy' does not take logits, the classes to be left and those to be"
    ):
        MultiTargeted(criterion=("targeted_dlr", "cross_entropy"))


def test_two_classes_have_one_target() -> None:
    model = Network(0, 2)
    x, y = labelled(model)
    reports: list[str] = []
    attack = MultiTargeted(PGD(1e-6, 1e-6, steps=1, restarts=2), criterion="targeted_margin")
    attack(model, x, y, report=lambda share, what: reports.append(what))
    assert reports == ["class 1 of 1"] * 2


def test_every_loss_attacks_what_those_before_it_have_left() -> None:
    model = Network(0)
    x, y = labelled(model, 32)
    attack = MomentumPGD(0.05, step_size=0.1, steps=3, random_start=False)
    losses = ("targeted_probability_margin", "targeted_margin")
    first, second = (MultiTargeted(attack, 3, loss)(model, x, y) for loss in losses)
    left = correct(model(first), y)
    together = MultiTargeted(attack, 3, [losses[0], targeted_margin])(model, x, y)
    assert 0 < left.sum() < len(x)
    assert torch.equal(together[~left], first[~left])
    assert torch.equal(together[left], second[left])
    with pytest.raises(InputError, match="give at least one loss"):
        MultiTargeted(attack, 3, ())


@pytest.mark.parametrize("losses", ["targeted_margin", ("targeted_probability_margin", "targeted_margin")])
@pytest.mark.parametrize("attack", [PGD(1e-3, 1e-4, 2), PGD(1e-3, 1e-4, 2, restarts=2), MomentumPGD(1e-3, steps=2)])
def test_cost_of_what_fools_nothing_is_what_is_run(attack: PGD, losses: str | tuple[str, ...]) -> None:
    asked: list[bool] = []
    model = Network(0)
    x, _ = labelled(model, 8)
    sure = wrong_classes(model(x), model(x).argmax(dim=1)).new_zeros(8)

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(torch.is_grad_enabled())
            return model(x) + 100 * nn.functional.one_hot(sure, CLASSES)

    whole = MultiTargeted(attack, targets=3, criterion=losses)
    whole(Sure().eval(), x, sure)
    assert (asked.count(True), asked.count(False)) == (whole.cost.gradients, whole.cost.queries)


def test_what_is_targeted_already_is_refused() -> None:
    with pytest.raises(InputError, match="MultiTargeted chooses the classes"):
        MultiTargeted(PGD(targeted=True))
    with pytest.raises(InputError, match="MomentumPGD only ascends"):
        replace(MomentumPGD(), targeted=True)
    with pytest.raises(InputError, match="targets"):
        MultiTargeted(targets=0)
