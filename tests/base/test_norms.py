"""Norms are what convex analysis says, sample by sample."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from robustdeq.base.errors import InputError
from robustdeq.base.norms import L1, L2, Linf, Norm, named, register

pytestmark = pytest.mark.usefixtures("float64")
NORMS: list[Norm] = [Linf(), L2(), L1()]
ORDERS = {"Linf": torch.inf, "L2": 2, "L1": 1}
DUALS = {"Linf": 1, "L2": 2, "L1": torch.inf}
norms = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.name)


def lengths(x: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), ord=order, dim=1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@norms
def test_size_is_the_norm(norm: Norm) -> None:
    x = drawn(0, 4, 2, 3, 5)
    assert_close(norm.size(x), lengths(x, ORDERS[norm.name]))


@norms
@given(seed=st.integers(0, 1000), eps=st.floats(0, 10), dimension=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_projection_is_the_nearest_point(norm: Norm, seed: int, eps: float, dimension: int) -> None:
    """p is nearest to v in a convex set iff ⟨v − p, q − p⟩ ≤ 0 for all q in it; over a ball the maximum is dual."""
    v = drawn(seed, 3, dimension)
    p = norm.project(v, eps)
    assert (lengths(p, ORDERS[norm.name]) <= eps + 1e-12).all()
    beyond = eps * lengths(v - p, DUALS[norm.name]) - ((v - p) * p).sum(dim=1)
    assert (beyond <= 1e-10).all()


def room(seed: int, dimension: int) -> tuple[Tensor, Tensor]:
    """How far pixels may move: some not at all, some to one side alone."""
    return drawn(seed + 1, 3, dimension).clamp_max(0), drawn(seed + 2, 3, dimension).clamp_min(0)


@norms
@given(seed=st.integers(0, 1000), eps=st.floats(0, 10), dimension=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_projection_within_bounds_is_in_both_and_leaves_what_is(
    norm: Norm, seed: int, eps: float, dimension: int
) -> None:
    low, high = room(seed, dimension)
    p = norm.project_within(3 * drawn(seed, 3, dimension), eps, low, high)
    assert ((low <= p) & (p <= high)).all()
    assert (lengths(p, ORDERS[norm.name]) <= eps + 1e-12).all()
    assert_close(norm.project_within(p, eps, low, high), p, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 1000), eps=st.floats(0, 10), dimension=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_nearest_point_of_the_l1_ball_and_the_bounds(seed: int, eps: float, dimension: int) -> None:
    """As above: ⟨v − p, q⟩ is greatest where q spends ε on the steepest entries first, up to their bounds."""
    low, high = room(seed, dimension)
    v = 3 * drawn(seed, 3, dimension)
    p = L1().project_within(v, eps, low, high)
    slopes, order = (v - p).abs().sort(dim=1, descending=True)
    furthest = torch.where(v > p, high, -low).gather(1, order)
    spent = furthest.cumsum(dim=1).clamp_max(eps).diff(dim=1, prepend=torch.zeros(3, 1))
    assert ((slopes * spent).sum(dim=1) - ((v - p) * p).sum(dim=1) <= 1e-10).all()


@given(seed=st.integers(0, 1000), dimension=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_l1_step_is_spent_on_pixels_that_can_move(seed: int, dimension: int) -> None:
    low, high = room(seed, dimension)
    gradient = drawn(seed, 3, dimension)
    step = L1().steepest_within(gradient, low, high)
    free = torch.where(gradient > 0, high, -low) > 0
    assert_close(step, L1().steepest(gradient * free))
    assert_close(lengths(step, 1), free.any(dim=1).to(step))


@norms
@given(seed=st.integers(0, 1000), dimension=st.integers(1, 50), zeros=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_steepest_step_has_norm_one_and_the_zero_gradient_none(
    norm: Norm, seed: int, dimension: int, zeros: int
) -> None:
    gradient = drawn(seed, 3, dimension)
    gradient[1] = 0
    gradient[2, : min(zeros, dimension - 1)] = 0
    step = norm.steepest(gradient)
    assert_close(lengths(step, ORDERS[norm.name]), torch.tensor([1.0, 0.0, 1.0]))
    gained = (gradient * step).sum(dim=1)
    if isinstance(norm, L1):
        largest = gradient.abs().topk(math.ceil(dimension / 20), dim=1).values
        assert_close(gained, largest.sum(dim=1) / (largest > 0).sum(dim=1).clamp_min(1))
    else:
        assert_close(gained, lengths(gradient, DUALS[norm.name]))


@norms
def test_uniform_draws_are_uniform(norm: Norm) -> None:
    """The share of the ball within a radius r is r^d, and no orthant is preferred."""
    x = torch.zeros(4000, 1, 3)
    draws = norm.uniform(x, torch.Generator().manual_seed(0))
    share = lengths(draws, ORDERS[norm.name]) ** 3
    assert share.max() <= 1
    assert (share.sort().values - torch.linspace(0, 1, len(x))).abs().max() < 1.63 / len(x) ** 0.5
    assert draws.mean(dim=0).abs().max() < 4 / len(x) ** 0.5
    assert (draws > 0).double().mean(dim=0).sub(0.5).abs().max() < 2 / len(x) ** 0.5
    half = lengths(draws, ORDERS[norm.name]) < 0.5
    assert half.double().mean() == pytest.approx(1 / 8, abs=0.02)


@norms
def test_smooth_step_has_the_value_of_the_step_and_the_derivative_of_its_stand_in(norm: Norm) -> None:
    gradient, temperature, bar = drawn(1, 2, 5, 8), 0.7, drawn(2, 2, 5, 8)
    step = norm.steepest(gradient)

    def stand_in(g: Tensor) -> Tensor:
        if isinstance(norm, L2):
            return g / lengths(g, 2).view(-1, 1, 1)
        signs = torch.tanh(g / (temperature * g.abs().mean(dim=(1, 2), keepdim=True)))
        return signs * step.abs()

    leaf, reference = gradient.clone().requires_grad_(), gradient.clone().requires_grad_()
    found = norm.smooth_steepest(leaf, temperature)
    assert_close(found.detach(), step)
    (expected,) = torch.autograd.grad(stand_in(reference), reference, bar)
    assert expected.abs().max() > 1e-3
    assert_close(torch.autograd.grad(found, leaf, bar)[0], expected)


@norms
def test_samples_do_not_see_each_other(norm: Norm) -> None:
    x = drawn(3, 4, 2, 6)
    for method in (norm.steepest, lambda x: norm.project(x, 0.3), lambda x: norm.smooth_steepest(x, 1.0)):
        assert_close(method(x)[1:3], method(x[1:3]))


@dataclass(frozen=True)
class Twice(L2):
    """A norm with a parameter."""

    factor: float = 2.0


def test_norms_are_known_by_name_and_new_ones_from_their_first_use_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdeq.base.norms._NORMS", {norm.name: norm for norm in NORMS})
    assert [register(norm) for norm in (*NORMS, "L1")] == ["Linf", "L2", "L1", "L1"]
    assert [named(name) for name in ORDERS] == NORMS
    with pytest.raises(InputError, match="norm is 'Twice'; choose one of 'Linf', 'L2', 'L1', or give a Norm"):
        register("Twice")
    assert register(Twice()) == register("Twice") == "Twice"
    assert named("Twice") == Twice()
    with pytest.raises(InputError, match="there is another norm named 'Twice'; give this one a name of its own"):
        register(Twice(3.0))
