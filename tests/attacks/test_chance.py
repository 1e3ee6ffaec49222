"""A defense that draws at random falls to the attacks that judge as they go no less than to plain PGD."""

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.attacks import PGD, Attack, AutoAttack, MomentumPGD, MultiTargeted, StoppingPGD, TargetedAPGD
from robustdeq.attacks.losses import correct
from robustdeq.defenses import Defense, Randomised
from robustdeq.evaluation.column import Attempt, Row
from robustdeq.evaluation.job import adversaries_of

PLAIN = PGD(eps=0.05, step_size=0.0125, steps=20)


class NoisyLogits(Defense):
    """A model whose logits are noisy."""

    @override
    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        logits = model(x)
        return logits + 0.03 * torch.randn_like(logits)

    @override
    def evaluations(self, model: nn.Module) -> int:
        return 1


def row() -> Row:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    made = Row("noisy", model, Randomised(NoisyLogits(), samples=8, readings=4))
    made.surrogates[0].module.eval()
    return made


def images(defended: Row, n: int) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, defended.judge.deq(x).argmax(dim=1)


def misread(attack: Attack, defended: Row, x: Tensor, y: Tensor) -> float:
    """The share of all readings of its adversaries that are wrong, of 20 each."""
    (climbed,) = defended.surrogates
    torch.manual_seed(2)
    adversaries = adversaries_of(Attempt(attack, climbed, defended), x, y, lambda share, what: None)
    with torch.no_grad():
        return 1 - float(torch.stack([correct(defended.judge(adversaries), y) for _ in range(20)]).float().mean())


@pytest.mark.parametrize(
    "attack",
    [
        StoppingPGD(**vars(PLAIN)),
        StoppingPGD.like(PLAIN, 20, 3),
        MomentumPGD.like(PLAIN, 40, 1),
        MultiTargeted(MomentumPGD.like(PLAIN, 20, 1), 2),
        TargetedAPGD(PLAIN.eps, steps=20, targets=3),
    ],
    ids=lambda attack: attack.label,
)
def test_one_lucky_draw_is_no_success(attack: Attack) -> None:
    """How many readings are wrong is known to about 1 % here; attacks that believe one draw miss 5 % and more."""
    defended = row()
    x, y = images(defended, 300)
    assert misread(attack, defended, x, y) > misread(PLAIN, defended, x, y) - 0.04


def test_no_run_ends_early_where_chance_has_a_say() -> None:
    defended = row()
    x, y = images(defended, 40)
    (climbed,) = defended.surrogates
    torch.manual_seed(3)
    plain = PLAIN(climbed.module, x, y)
    torch.manual_seed(3)
    assert torch.equal(StoppingPGD(**vars(PLAIN))(climbed.module, x, y, defended.judge), plain)


def test_no_run_with_momentum_ends_early_where_chance_has_a_say() -> None:
    defended = row()
    x, y = images(defended, 40)
    (climbed,) = defended.surrogates
    seen: list[int] = []
    climbed.module.register_forward_hook(lambda module, inputs, made: seen.append(len(made)))
    MomentumPGD.like(PLAIN, 10, 1)(climbed.module, x, y, defended.judge)
    assert seen == 10 * [40]


@pytest.mark.parametrize("judge", ["target", "surrogate"])
def test_autoattack_believes_no_single_draw(judge: str) -> None:
    """Whom it attacks at all is told by the mean of eight draws of every image."""
    defended, seen = row(), list[int]()
    x, y = images(defended, 30)
    defended.judge.deq.register_forward_hook(lambda module, inputs, made: seen.append(len(made)))
    AutoAttack(eps=0.05, version="custom", attacks=("apgd-ce",), judge=judge)(defended.judge, x, y)
    assert seen[:8] == 8 * [30]


def test_the_model_stays_in_the_mode_that_it_is_in() -> None:
    defended = row()
    x, y = images(defended, 2)
    defended.judge.deq.train()
    with pytest.warns(UserWarning, match="in training mode"):
        PLAIN(defended.surrogates[0].module, x, y, defended.judge)
    assert defended.judge.deq.training
