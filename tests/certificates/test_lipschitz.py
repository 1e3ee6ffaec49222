"""L2 radii: no slope is exceeded, no adversary within a radius, and what proves nothing is refused."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

import robustdeq as rd
from dense import circular_matrix
from monotone_networks import CLASSES, CONV, DENSE, images, trained
from robustdeq.base.errors import InputError
from robustdeq.certificates.affine import matrix
from robustdeq.certificates.equilibrium import equilibrium
from robustdeq.certificates.lipschitz import Lipschitz, slopes
from robustdeq.deq.monotone import Given, MonotoneDEQ, PeacemanRachford
from robustdeq.zoo.monotone import MonotoneConfig

each_model = pytest.mark.parametrize("config", [DENSE, CONV], ids=["dense", "convolutional"])


@each_model
def test_slopes_bound_every_jacobian(config: MonotoneConfig) -> None:
    known = equilibrium(trained(config))
    x = images(20)[0].double()
    bound = slopes(known, x, known.deq.equilibrium(x))
    jacobians = torch.stack([torch.autograd.functional.jacobian(exact_logits(known.deq), one[None])[0] for one in x])
    jacobians = jacobians.flatten(2)
    for one in range(CLASSES):
        for other in range(CLASSES):
            steepest = (jacobians[:, one] - jacobians[:, other]).norm(dim=1).max()
            assert steepest <= bound.logits[one, other] + 1e-9


def exact_logits(deq: MonotoneDEQ):
    """Logits of the equilibrium by many plain steps, differentiated through all of them."""

    def logits(x):
        cell = deq.cell.bind(deq.injection(x))
        state = torch.zeros_like(deq.injection(x))
        for _ in range(300):
            state = cell(state)
        return deq.head(state)

    return logits


@each_model
def test_slopes_are_below_the_published_bound(config: MonotoneConfig) -> None:
    known = equilibrium(trained(config))
    x = images()[0].double()
    z = known.deq.equilibrium(x)
    bound = slopes(known, x, z)
    injected = torch.linalg.matrix_norm(matrix(known.deq.injection, x), ord=2)
    published = bound.heads * injected / config.m
    off = ~torch.eye(CLASSES, dtype=torch.bool)
    assert (bound.logits[off] < published[off]).all()
    assert bound.state <= injected / config.m * (1 + 1e-9)


def test_slope_is_exact_where_the_layer_is_linear() -> None:
    """W = 0 and injections that are positive: logits are H (U x + b), and c U is their slope."""
    deq = given(torch.zeros(4, 4), m=1.0)
    nn.init.constant_(deq.injection[1].bias, 100.0)
    known = equilibrium(deq)
    x = torch.rand(1, 1, 2, 2).double()
    bound = slopes(known, x, known.deq.equilibrium(x))
    head, injection = matrix(known.deq.classifier, known.deq.equilibrium(x)), matrix(known.deq.injection, x)
    true = ((head[0] - head[1]) @ injection).norm()
    largest = (head[0] - head[1]).norm() * torch.linalg.matrix_norm(injection, ord=2)
    torch.testing.assert_close(bound.logits[0, 1], (true + largest) / 2, rtol=1e-8, atol=0)


def given(weight: torch.Tensor, m: float) -> MonotoneDEQ:
    torch.manual_seed(0)
    injection = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, len(weight), 1))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), CLASSES))
    solver = rd.solvers.Broyden(max_steps=30, tol=1e-6)
    return MonotoneDEQ(injection, PeacemanRachford(Given(weight, m)), classifier, solver=solver).eval()


@each_model
def test_no_adversary_lies_within_a_radius(config: MonotoneConfig) -> None:
    model, (x, y) = trained(config), images(40)
    found = Lipschitz().certify(model, x, y)
    assert (found.radius > 0).any()
    assert (found.computed <= found.radius).all()
    sizes = []
    for eps in (0.1, 0.2, 0.4, 0.8):
        attack = rd.attacks.PGD(eps, eps / 4, steps=20, norm="L2", bounds=(-math.inf, math.inf))
        surrogate = rd.Defended(model, rd.defenses.FinalState())
        adversaries = attack(surrogate, x, y)
        broken = surrogate(adversaries).argmax(dim=1) != y
        sizes.append(torch.where(broken, (adversaries - x).flatten(1).norm(dim=1), torch.inf))
    nearest = torch.stack(sizes).amin(dim=0).numpy()
    assert (nearest < math.inf).any()
    assert (found.radius[found.correct] < nearest[found.correct]).all()


def test_certified_equilibrium_is_the_exact_one() -> None:
    """Whatever the solver, exact radii differ by what its residual costs alone; few steps certify less."""
    model, (x, y) = trained(DENSE), images()
    good = Lipschitz().certify(model, x, y)
    rough = Lipschitz().certify(model.with_settings(solver=rd.solvers.Broyden(max_steps=3, tol=0.0)), x, y)
    same = good.predicted == rough.predicted
    assert (rough.radius[same] <= good.radius[same] + 1e-6).all()
    assert rough.radius.mean() < good.radius.mean()


def test_error_bounds_the_distance_to_the_equilibrium() -> None:
    for config in (DENSE, CONV):
        model, (x, _) = trained(config), images()
        known = equilibrium(model)
        exact = known.deq.with_settings(solver=rd.solvers.Picard(max_steps=500, tol=0.0)).equilibrium(x.double())
        for steps in (1, 3, 10, 60):
            deq = model.with_settings(solver=replace(model.solver, max_steps=steps))
            z = known.deq.cell.positive(deq.equilibrium(x).double())
            apart = known.deq.operator.norm.size(z - exact)
            assert (apart <= known.error(x.double(), z) + 1e-9).all()


def test_accuracy_falls_with_the_radius_and_counts_correct_images_alone() -> None:
    model, (x, y) = trained(DENSE), images(40)
    found = Lipschitz().certify(model, x, y.roll(1))
    shares = [found.accuracy(eps)[0] for eps in (0.0, 0.05, 0.1, 0.2, 0.4, 100.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == (found.predicted == y.roll(1).numpy()).mean()
    assert shares[-1] == 0
    assert not found.holds(0.05)[~found.correct].any()


def test_what_proves_nothing_is_refused_in_one_sentence() -> None:
    x, y = images(4)
    certify = Lipschitz().certify
    with pytest.raises(InputError, match=r"is not strongly monotone, and m = 0\.5 was claimed"):
        certify(given(1.5 * torch.eye(4), m=0.5), x[:, :, :2, :2], y)
    with pytest.raises(InputError, match=r"strongly monotone by 0\.1"):
        certify(given(0.9 * torch.eye(4), m=0.5), x[:, :, :2, :2], y)
    with pytest.raises(InputError, match="is lost in rounding"):
        skew = 1e12 * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        certify(given(torch.eye(2) * (1 - 1e-9) + skew, m=1e-12).double(), x[:, :, :2, :2].double(), y)
    with pytest.raises(InputError, match="contracts in the largest entry"):
        certify(trained(replace(DENSE, operator="contracting")), x, y)
    with pytest.raises(InputError, match="no modulus of monotonicity"):
        certify(rd.models.conv("digits", in_channels=1), torch.rand(4, 1, 8, 8), y)
    with pytest.raises(InputError, match="cannot see through Tanh"):
        deq = given(torch.zeros(4, 4), m=1.0)
        deq.head[1] = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(4, CLASSES))
        certify(deq, x[:, :, :2, :2], y)
    for name in ("injection", "cell", "head"):
        deq = deepcopy(trained(DENSE))
        deq.get_submodule(name).register_forward_hook(lambda module, given, made: made)
        with pytest.raises(InputError, match="cannot see through the hooks of a"):
            certify(deq, x, y)
    with pytest.raises(InputError, match=r"pixels outside \[0, 1\]"):
        certify(trained(DENSE), x - 0.5, y)
    with pytest.raises(InputError, match="one integer label each"):
        certify(trained(DENSE), x, y.float())


def test_dense_reference_of_the_symmetric_part() -> None:
    """The least eigenvalue that the bound stands on is at least m, on the border's inside too."""
    known = equilibrium(trained(CONV))
    weight = circular_matrix(known.kernel, known.deq.operator.sides)
    values = 1 - torch.linalg.eigvalsh((weight + weight.T) / 2)
    assert values.min() >= CONV.m - 1e-9
