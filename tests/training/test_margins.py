"""The Lipschitz margin: no adversary within ε has a greater loss, and training it makes images certified."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import robustdeq as rd
from monotone_networks import CLASSES, CONV, DENSE, images, trained
from robustdeq.base.errors import InputError
from robustdeq.base.norms import L2
from robustdeq.certificates import Lipschitz
from robustdeq.training import LipschitzMargin
from robustdeq.training.objectives import Adversaries, Moment
from robustdeq.zoo.monotone import MonotoneConfig

EPS = 0.3


def read(objective: LipschitzMargin, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, progress: float = 1.0):
    return objective.read(model, x, y, Adversaries(x), Moment(7, progress, torch.Generator()))


@pytest.mark.parametrize("config", [DENSE, CONV], ids=["dense", "convolutional"])
def test_no_adversary_within_the_radius_has_a_greater_loss(config: MonotoneConfig) -> None:
    model, (x, y) = trained(config), images(40)
    margin = read(LipschitzMargin(EPS), model, x, y).loss
    surrogate = rd.Defended(model, rd.defenses.FinalState())
    attack = rd.attacks.PGD(EPS, EPS / 4, steps=20, norm="L2")
    adversarial = cross_entropy(surrogate(attack(surrogate, x, y)), y)
    assert cross_entropy(model(x), y) < adversarial < margin


def test_radius_grows_to_its_full_size() -> None:
    model, (x, y) = trained(DENSE), images()
    losses = [read(LipschitzMargin(EPS, warmup=0.5), model, x, y, at).loss for at in (0.0, 0.25, 0.5, 1.0)]
    torch.testing.assert_close(losses[0], cross_entropy(model(x), y))
    assert losses[0] < losses[1] < losses[2] == losses[3]
    torch.testing.assert_close(losses[1], read(LipschitzMargin(EPS / 2, warmup=0.0), model, x, y).loss)
    threat = LipschitzMargin(EPS).threat
    assert (threat.eps, threat.measure) == (EPS, L2())


def test_training_it_certifies_more() -> None:
    (x, y), radius, certified = images(64, seed=1), 0.8, {}
    for eps in (1e-6, radius):
        torch.manual_seed(0)
        model = DENSE.network(CLASSES, 1)
        model.gradient = rd.gradients.Exact()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            read(LipschitzMargin(eps), model, x, y).loss.backward()
            optimizer.step()
        certified[eps] = Lipschitz().certify(model.eval(), x, y).accuracy(radius)[0]
    assert certified[radius] > certified[1e-6] + 0.1


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="give a positive radius"):
        LipschitzMargin(0.0)
    with pytest.raises(InputError, match="warmup is 2"):
        LipschitzMargin(0.1, warmup=2)
    with pytest.raises(InputError, match="slopes of a Linear"):
        read(LipschitzMargin(), torch.nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 0]))
