"""Slopes at every frequency: they bound the exact ones, equal them without a border, and can be descended."""

import pytest
import torch

import robustdeq as rd
from monotone_networks import CLASSES, CONV, DENSE, images, trained
from robustdeq.base.errors import InputError
from robustdeq.certificates import logit_slopes
from robustdeq.certificates.equilibrium import equilibrium
from robustdeq.certificates.lipschitz import slopes
from robustdeq.zoo.monotone import MonotoneConfig

WIDE = MonotoneConfig(channels=2, m=0.7, side=3, patch=2, image_size=(8, 14), max_steps=60)


def exact(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    known = equilibrium(model)
    return slopes(known, x, known.deq.equilibrium(x)).logits


def test_they_are_the_exact_ones_where_there_is_no_border() -> None:
    model = trained(DENSE, double=True)
    torch.testing.assert_close(logit_slopes(model), exact(model, images()[0].double()), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("config", [CONV, WIDE], ids=["square", "wide"])
def test_they_bound_every_difference(config: MonotoneConfig) -> None:
    torch.manual_seed(0)
    model = trained(CONV, double=True) if config is CONV else config.network(CLASSES, 1).double().eval()
    x = torch.rand(24, 1, *model.config.sides, dtype=torch.float64)
    bound = logit_slopes(model)
    solved = model.with_settings(solver=rd.solvers.Picard(max_steps=400, tol=1e-12))
    with torch.no_grad():
        moved = solved(x[:12]) - solved(x[12:])
    apart = (x[:12] - x[12:]).flatten(1).norm(dim=1)[:, None, None]
    assert ((moved[:, :, None] - moved[:, None]).abs() <= bound * apart * (1 + 1e-9)).all()
    assert (bound <= 1.5 * exact(model, x[:1]) + 1e-9).all()


def test_their_gradient_is_that_of_finite_differences() -> None:
    model = MonotoneConfig(channels=2, patch=2, image_size=4).network(CLASSES, 1).double()
    weights = dict(model.named_parameters())

    def at(*values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for weight, value in zip(weights.values(), values, strict=True):
                weight.copy_(value)
        return logit_slopes(model)[0, 1]

    values = [weight.detach().clone() for weight in weights.values()]
    found = torch.autograd.grad(at(*values), [*weights.values()], allow_unused=True)
    for i, (value, slope) in enumerate(zip(values, found, strict=True)):
        direction = torch.randn_like(value)
        sides = [at(*values[:i], value + step * direction, *values[i + 1 :]).item() for step in (1e-6, -1e-6)]
        expected = 0.0 if slope is None else float((slope * direction).sum())
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="slopes of a Linear are not known"):
        logit_slopes(torch.nn.Linear(2, 2))
    contracting = rd.models.monotone("digits", in_channels=1, operator="contracting")
    with pytest.raises(InputError, match='give operator="monotone"'):
        logit_slopes(contracting)
