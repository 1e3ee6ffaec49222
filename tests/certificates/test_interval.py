"""L∞ radii: boxes hold every equilibrium of the ball, and no adversary lies within a radius."""

from dataclasses import replace

import pytest
import torch

import robustdeq as rd
from monotone_networks import CONV, DENSE, images, trained
from robustdeq.certificates.equilibrium import equilibrium
from robustdeq.certificates.interval import Box, IntervalBounds, Step
from robustdeq.zoo.monotone import MonotoneConfig

CONFIGS = [replace(config, operator="contracting", splitting="forward-backward") for config in (DENSE, CONV)]
each_model = pytest.mark.parametrize("config", [*CONFIGS, replace(DENSE, m=4.0)], ids=["dense", "convolutional", "L2"])


@each_model
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.05])
def test_box_holds_the_equilibrium_of_every_image_of_the_ball(config: MonotoneConfig, eps: float) -> None:
    known = equilibrium(trained(config))
    x = images(6)[0].double()
    exact = known.deq.with_settings(solver=rd.solvers.Picard(max_steps=400, tol=0.0))
    step = Step(known, x, torch.full((6,), eps).double())
    box, verified = IntervalBounds().box(step, exact.equilibrium(x))
    assert verified.any()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        corners = torch.randint(3, x.shape, generator=generator) - 1
        z = exact.equilibrium((x + eps * corners).clamp(0, 1))
        outside = ((z - box.center).abs() - box.radius).flatten(1).amax(dim=1)
        assert (outside[verified] <= 0).all()


@each_model
def test_step_holds_the_step_of_every_state(config: MonotoneConfig) -> None:
    known = equilibrium(trained(config))
    torch.manual_seed(0)
    x = images(5)[0].double()
    z = known.deq.equilibrium(x)
    box = Box(z, torch.rand_like(z))
    step = Step(known, x, torch.full((5,), 0.1).double())
    after, point = step(box), Step(known, x, torch.zeros(5).double())
    for _ in range(20):
        state = box.center + box.radius * (2 * torch.rand_like(z) - 1)
        moved = point(Box(state, torch.zeros_like(state))).center
        assert ((moved - after.center).abs() <= after.radius).all()


@each_model
def test_no_adversary_lies_within_a_radius(config: MonotoneConfig) -> None:
    model, (x, y) = trained(config), images(20)
    found = IntervalBounds(largest=0.3).certify(model, x, y)
    assert (found.radius > 0).any()
    assert (found.computed <= found.radius).all()
    surrogate, nearest = rd.Defended(model, rd.defenses.FinalState()), torch.full((20,), torch.inf)
    for eps in (0.02, 0.05, 0.1, 0.2, 0.3):
        adversaries = rd.attacks.PGD(eps, eps / 4, steps=20)(surrogate, x, y)
        broken = surrogate(adversaries).argmax(dim=1) != y
        sizes = (adversaries - x).flatten(1).abs().amax(dim=1)
        nearest = torch.where(broken, sizes.minimum(nearest), nearest)
    assert nearest.isfinite().any()
    assert (found.radius[found.correct] < nearest.numpy()[found.correct]).all()


def test_contracting_layer_has_a_box_for_every_radius() -> None:
    known = equilibrium(trained(CONFIGS[0]))
    x = images(6)[0].double()
    for eps in (0.0, 0.1, 1.0):
        _, verified = IntervalBounds().box(Step(known, x, torch.full((6,), eps).double()), known.deq.equilibrium(x))
        assert verified.all()


def test_more_halvings_certify_no_less() -> None:
    model, (x, y) = trained(CONFIGS[0]), images(10)
    few, many = (IntervalBounds(halvings=n).certify(model, x, y).radius for n in (2, 8))
    assert (many >= few).all()
    assert (many > few).any()


def test_solve_that_does_not_converge_certifies_nothing_that_is_wrong() -> None:
    model, (x, y) = trained(CONFIGS[0]), images(10)
    good = IntervalBounds().certify(model, x, y)
    poor = IntervalBounds(max_steps=1).certify(model, x, y)
    assert (poor.radius <= good.radius + 1e-9).all()
