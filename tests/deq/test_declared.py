"""What a defense declares of itself is what attacks use: a stand-in for its derivative, and the mean over chance."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from typing_extensions import override

from cells import cross_entropy, make_deq
from cells import images as cell_images
from robustdeq import InputError
from robustdeq.attacks import PGD
from robustdeq.attacks.losses import correct
from robustdeq.attacks.pgd import input_gradient
from robustdeq.defenses import Around, AsIs, Defended, Defense, EntropyReduction, Randomised, Transformed
from robustdeq.evaluation import Network, measure
from robustdeq.evaluation.column import Row

ATTACK = PGD(eps=0.2, step_size=0.05, steps=8)


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 4)).double().eval()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def images(model: nn.Module, n: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def rounded(x: Tensor) -> Tensor:
    return torch.round(4 * x) / 4


def standing(model: nn.Module, defense: Defense, x: Tensor, y: Tensor) -> np.ndarray:
    result = measure(model.eval(), x, y, Network(ATTACK, cascade=None), defenses={"mine": defense}, batch_size=40)
    return result.per_sample[0, 0]


def test_rounding_that_is_declared_falls_to_the_attack_written_for_it() -> None:
    model = Smooth()
    x, y = images(lambda x: model(rounded(x)))  # type: ignore[arg-type]
    declared, hidden = Transformed(rounded, AsIs()), Transformed(rounded, AsIs(), backward=None)
    by_hand = Defended(model, AsIs())

    class StraightThrough(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return by_hand(x + (rounded(x) - x).detach())

    expected = correct(model(rounded(ATTACK(StraightThrough().eval(), x, y))), y).numpy()
    assert np.array_equal(standing(model, declared, x, y), expected)
    assert expected.mean() < 0.5 < standing(model, hidden, x, y).mean()


def test_a_stand_in_is_differentiated_and_the_transform_is_read() -> None:
    model, (x, _) = Smooth(), images(Smooth())
    defense = Transformed(rounded, AsIs(), backward=torch.tanh)
    leaf = x.clone().requires_grad_()
    logits = defense.logits(model, leaf)
    assert_close(logits, model(rounded(x)))
    (found,) = torch.autograd.grad(logits.sum(), leaf)
    at = rounded(x).requires_grad_()
    (outer,) = torch.autograd.grad(model(at).sum(), at)
    assert_close(found, outer * (1 - torch.tanh(x) ** 2))
    with torch.no_grad():
        assert_close(defense.logits(model, x), model(rounded(x)))


def test_a_transform_that_changes_its_images_is_refused() -> None:
    model, (x, _) = Smooth(), images(Smooth())
    defense = Transformed(lambda x: x.mul_(4).round_().div_(4), AsIs())
    with torch.no_grad(), pytest.raises(InputError, match="the transform changes the images it is given"):
        defense.logits(model, x.clone())
    with torch.inference_mode():
        assert_close(Transformed(rounded, AsIs()).logits(model, x.clone()), model(rounded(x)))


def test_a_stand_in_of_another_shape_is_refused() -> None:
    defense = Transformed(rounded, AsIs(), backward=lambda x: x[:, :, :3])
    with pytest.raises(InputError, match="make them equal"):
        defense.logits(Smooth(), torch.rand(2, 1, 6, 6, dtype=torch.float64).requires_grad_())


class Noise(Defense):
    """The model on noisy images."""

    @override
    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return model(x + 0.3 * torch.randn_like(x))

    @override
    def evaluations(self, model: nn.Module) -> int:
        return 1


def test_chance_is_averaged_by_the_attack_and_judged_at_its_worst() -> None:
    model = Smooth()
    x, y = images(model)
    row = Row("mine", model, Randomised(Noise(), samples=5, readings=3))
    (climbed,) = row.surrogates
    assert climbed.label == "the mean of 5 draws of Noise"
    assert climbed.evaluations == 3 * 5
    torch.manual_seed(3)
    mean = climbed.module(x)
    torch.manual_seed(3)
    assert_close(mean, torch.stack([model(x + 0.3 * torch.randn_like(x)) for _ in range(5)]).mean(dim=0))
    torch.manual_seed(4)
    many = standing(model, Randomised(Noise(), samples=8, readings=8), x, y)
    torch.manual_seed(4)
    single = standing(model, Noise(), x, y)
    assert many.mean() < single.mean()


def test_what_holds_for_a_defense_holds_for_what_it_is_declared_as() -> None:
    model = Smooth()
    both = Transformed(rounded, Randomised(Noise(), samples=2, readings=5))
    assert (both.judgements, both.draws) == (5, 2)
    assert (Noise().judgements, Randomised(Noise()).judgements) == (1, 4)
    assert both.evaluations(model) == 1
    assert both.label == "rounded, Noise"
    with pytest.raises(InputError, match="samples is 0"):
        Randomised(Noise(), samples=0)
    for defense in (Transformed(rounded), Randomised(Transformed(rounded))):
        with pytest.raises(InputError, match="has no states to read"):
            Defended(model, defense)


def test_what_an_inner_defense_is_climbed_by_is_climbed_through_what_is_around_it() -> None:
    model, x = make_deq().double().eval(), cell_images().double().clamp(0, 1)
    around = Transformed(rounded, EntropyReduction(interval=4, steps=2, step_size=0.01))
    own = Row("inner", model, around.inner).surrogates
    at = rounded(x)
    assert len(own) == 3
    for defense, label in ((around, "{}"), (Randomised(around, samples=2), "the mean of 2 draws, {}")):
        found = Row("outer", model, defense).surrogates
        assert [climbed.label for climbed in found] == [label.format(climbed.label) for climbed in own]
        for inside, outside in zip(own, found, strict=True):
            inner_gradient = input_gradient(inside.module.eval(), at, cross_entropy)
            assert_close(input_gradient(outside.module.eval(), x, cross_entropy), inner_gradient)
            with torch.no_grad():
                assert_close(outside.module(x), inside.module(at))


def test_what_is_around_a_model_leaves_each_of_its_parts_in_its_mode() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Identity()).eval()
    model[0].train()
    wrapped = Defended(model, Around(lambda inner: nn.Sequential(nn.Dropout(), inner)))
    torch.manual_seed(0)
    zeroed = wrapped(torch.ones(1, 1000)) == 0
    assert [part.training for part in model] == [True, False]
    assert 0.4 < zeroed.double().mean() < 0.6
