"""Adversarial training sees adversaries of the model in eval mode."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.gradients import Gradient, Phantom, Surrogate
from robustdeq.models import DEQ, MDEQ
from robustdeq.training import AdversarialTraining, Standard

ATTACK = PGD(eps=0.2, step_size=0.1, steps=2, seed=5)


@pytest.fixture
def deq() -> MDEQ:
    return rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=3, dropout=0.5), in_channels=1).train()


def data() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4)


def test_standard_training_sees_the_images(deq: MDEQ) -> None:
    x, y = data()
    assert Standard().images(deq, x, y, 3, 0.5) is x


def test_adversaries_are_those_of_the_model_in_eval_mode(deq: MDEQ) -> None:
    x, y = data()
    found = AdversarialTraining(ATTACK, Phantom()).images(deq, x, y, 7, 0.5)
    expected = replace(ATTACK, seed=5 + 7)(Surrogate(deq.eval(), Phantom()).eval(), x, y)
    assert torch.equal(found, expected)
    assert not found.requires_grad


@dataclass(frozen=True)
class Watching(Phantom):
    """The phantom gradient; remembers the mode of the model and whether its weights are frozen."""

    seen: list[tuple[bool, bool]] = field(default_factory=list)

    def input_gradient(self, deq: DEQ, x: Tensor, loss: object) -> Tensor:
        self.seen.append((deq.training, any(parameter.requires_grad for parameter in deq.parameters())))
        return super().input_gradient(deq, x, loss)


def test_model_is_frozen_in_eval_mode_only_while_it_is_attacked(deq: MDEQ) -> None:
    x, y = data()
    gradient = Watching()
    statistics = {name: tensor.clone() for name, tensor in deq.state_dict().items()}
    AdversarialTraining(ATTACK, gradient).images(deq, x, y, 0, 1.0)
    assert gradient.seen == [(False, False)] * 2
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in deq.state_dict().items())
    assert all(module.training for module in deq.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in deq.parameters())


@pytest.mark.parametrize(
    ("warmup", "progress", "share"),
    [(0.0, 0.0, 1.0), (0.5, 0.1, 0.2), (0.5, 0.25, 0.5), (0.5, 0.5, 1.0), (0.5, 0.9, 1.0), (1.0, 0.5, 0.5)],
)
def test_radius_grows_linearly_during_the_warmup(deq: MDEQ, warmup: float, progress: float, share: float) -> None:
    x, y = data()
    x = 0.25 + x / 2
    attack = replace(ATTACK, step_size=1.0)
    adversaries = AdversarialTraining(attack, Phantom(), warmup).images(deq, x, y, 0, progress)
    assert float((adversaries - x).abs().max()) == pytest.approx(share * attack.eps, rel=1e-5)


def test_radius_starts_near_zero(deq: MDEQ) -> None:
    x, y = data()
    adversaries = AdversarialTraining(ATTACK, Phantom(), warmup=0.5).images(deq, x, y, 0, 0.0)
    assert float((adversaries - x).abs().max()) < 1e-2 * ATTACK.eps


@pytest.mark.parametrize("gradient", [rd.gradients.Exact(), rd.gradients.ThroughSolver()], ids=repr)
def test_any_gradient_makes_the_adversaries(deq: MDEQ, gradient: Gradient) -> None:
    x, y = data()
    found = AdversarialTraining(ATTACK, gradient).images(deq, x, y, 0, 1.0)
    assert torch.equal(found, ATTACK(Surrogate(deq.eval(), gradient).eval(), x, y))


@pytest.mark.parametrize("warmup", [-0.1, 1.1, float("nan")])
def test_warmup_beyond_the_training_is_refused(warmup: float) -> None:
    with pytest.raises(rd.InputError, match="warmup"):
        AdversarialTraining(warmup=warmup)
