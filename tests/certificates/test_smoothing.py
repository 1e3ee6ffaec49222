"""Randomized smoothing: the radius of a linear model is known in closed form, and its risk is kept."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.base.errors import InputError
from robustdeq.base.statistics import least_proportion
from robustdeq.certificates import Smoothing


class Halves(nn.Module):
    """Class 1 where w·x > b."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight - self.bias
        return torch.stack([-score, score], dim=1)


def test_radius_of_a_linear_model_is_its_distance_to_the_boundary() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16)
    x = torch.rand(12, 1, 4, 4)
    scores = x.flatten(1) @ weight
    bias = float(scores.median())
    distance = ((scores - bias).abs() / weight.norm()).numpy()
    smoothing = Smoothing(sigma=0.3, selection=2000, estimation=20_000)
    found = smoothing.certify(Halves(weight, bias), x, (scores > bias).long())
    certified = found.predicted >= 0
    assert found.correct[certified].all()
    assert (found.radius <= distance).all()
    most = 0.3 * NormalDist().inv_cdf(0.001 ** (1 / 20_000))
    near = distance < 0.6
    np.testing.assert_allclose(found.radius[near], np.minimum(distance, most)[near], atol=0.04)


def test_image_on_the_boundary_abstains() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    found = Smoothing(estimation=1000).certify(Halves(torch.ones(4), 2.0), x, torch.ones(1, dtype=torch.long))
    assert (found.predicted == -1).all()
    assert found.accuracy(0.0)[0] == 0


def test_least_proportion_is_kept_with_its_risk() -> None:
    generator = np.random.default_rng(0)
    for true in (0.6, 0.9, 0.99):
        bounds = [least_proportion(int(n), 50, 0.05) for n in generator.binomial(50, true, size=2000)]
        assert np.mean(np.array(bounds) > true) <= 0.05
    assert least_proportion(0, 10, 0.01) == 0
    assert least_proportion(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100))


def test_answer_depends_on_its_image_and_the_seed_alone() -> None:
    """The copies of an image are solved by themselves, however many at once."""
    torch.manual_seed(0)
    deq, (x, y) = rd.models.conv("digits", in_channels=1).eval(), digits(3)
    one = Smoothing(estimation=60, selection=10, draws=7).certify(deq, x, y, batch_size=1)
    other = Smoothing(estimation=60, selection=10, draws=60).certify(deq, x, y, batch_size=3)
    assert (one.predicted == other.predicted).all()
    np.testing.assert_allclose(one.radius, other.radius, atol=0.05)


def digits(count: int) -> tuple[Tensor, Tensor]:
    test = rd.data.load("digits").test
    assert test is not None
    return test.head(count).tensors()


def test_copy_without_finite_logits_votes_for_no_class() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 0, 0], torch.full_like(x[:, 0, 0, 0], torch.nan)], dim=1)

    found = Smoothing(estimation=100).certify(Broken(), torch.ones(1, 1, 2, 2), torch.zeros(1, dtype=torch.long))
    assert found.predicted[0] == -1


@pytest.mark.parametrize(
    ("settings", "said"), [({"sigma": 0.0}, "positive standard"), ({"risk": 1.0}, "between"), ({"draws": 0}, "draws")]
)
def test_settings_out_of_range_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Smoothing(**settings)
