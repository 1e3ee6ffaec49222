"""Where tensors of f are made of one another, every gradient counts each of them once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import robustdeq as rd
from cells import CLASSES, VECTOR, with_norm
from robustdeq.base.errors import InputError
from robustdeq.deq import BoundCell
from robustdeq.gradients import (
    SHINE,
    Ensemble,
    Exact,
    Gradient,
    JacobianFree,
    Neumann,
    Phantom,
    Reversed,
    SimultaneousAdjoint,
    StateGradient,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.solvers import Anderson, Broyden

X = torch.randn(3, VECTOR, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
COTANGENT = torch.randn(3, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TRAINING = [Exact(), SHINE(), JacobianFree(), Neumann(4), Phantom(2), UnrolledIntermediate(3), ThroughSolver()]
TRAINING += [ThroughSolver(rd.defenses.EnsembleState()), ThroughSolver(checkpoint=True)]


def linear(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(VECTOR, VECTOR, dtype=torch.float64)
    layer.weight.data = with_norm(layer.weight.data, 0.7)
    return layer


class Mixed(nn.Module):
    """tanh(layer(z) + u), u of one part or two."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor, u: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return torch.tanh(self.layer(z) + (u if isinstance(u, Tensor) else u[0] + u[1]))

    def initial_state(self, u: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return torch.sin(u if isinstance(u, Tensor) else u[0])


class Twice(nn.Module):
    """An injection of two parts."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.layer(2 * x)


def once(layer: nn.Linear) -> nn.Linear:
    return layer


def model(tied: bool, gradient: StateGradient, make: Callable[[nn.Linear], nn.Module]) -> rd.DEQ:
    layer, head = linear(2), nn.Linear(VECTOR, CLASSES, dtype=torch.float64)
    cell = Mixed(layer if tied else linear(2))
    solver = Broyden(max_steps=5, tol=0) if isinstance(gradient, SHINE) else Anderson(max_steps=5, tol=0)
    deq = rd.DEQ(make(layer), cell, head, solver, gradient=gradient)
    return rd.models.reversible(deq).with_settings(gradient=gradient) if isinstance(gradient, Reversed) else deq


def gradients_of(deq: rd.DEQ, layers: list[nn.Linear]) -> list[Tensor]:
    weights = [weight for layer in layers for weight in layer.parameters()]
    return [*torch.autograd.grad(deq(X), weights, COTANGENT)]


@pytest.mark.parametrize(
    ("gradient", "make"), [*((gradient, make) for gradient in TRAINING for make in (once, Twice)), (Reversed(), once)]
)
def test_gradient_of_a_tied_weight_is_the_sum_of_those_of_its_two_places(
    gradient: StateGradient, make: Callable[[nn.Linear], nn.Module]
) -> None:
    def layers(deq: rd.DEQ) -> list[nn.Linear]:
        cell = getattr(deq.cell, "cell", deq.cell)
        return [getattr(deq.injection, "layer", deq.injection), cell.layer]

    tied, apart = model(True, gradient, make), model(False, gradient, make)
    apart.load_state_dict(tied.state_dict())
    found, parts = gradients_of(tied, layers(tied)[:1]), gradients_of(apart, layers(apart))
    assert_close(found, [first + second for first, second in zip(parts[:2], parts[2:], strict=True)])


class Bound(Mixed):
    """tanh(W z + b + tanh(V u)), with what it computes once for a solve."""

    def __init__(self, layer: nn.Linear, listed: str) -> None:
        super().__init__(layer)
        self.inner, self.listed = linear(3), listed

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return super().forward(z, torch.tanh(self.inner(u)))

    def bind(self, u: Tensor) -> BoundCell:
        weight, h = self.layer.weight, torch.tanh(self.inner(u)) + self.layer.bias
        tensors = {"h": h, "u": u, "W": weight}
        return BoundCell(lambda z: torch.tanh(z @ weight.T + h), tuple(tensors[name] for name in self.listed))


class Plain(Bound):
    """The same without a `bind`."""

    bind = None


def bound(kind: type[Bound], listed: str = "hW", gradient: StateGradient | None = None) -> rd.DEQ:
    torch.manual_seed(6)
    head = nn.Linear(VECTOR, CLASSES, dtype=torch.float64)
    return rd.DEQ(linear(4), kind(linear(5), listed), head, Broyden(max_steps=5, tol=0), gradient=gradient)


FAMILIES = [SimultaneousAdjoint(), SimultaneousAdjoint(state=2), UnrolledIntermediate(2)]
ENSEMBLES = [Ensemble(family) for family in FAMILIES]


@pytest.mark.parametrize("gradient", [*TRAINING, *FAMILIES, *ENSEMBLES], ids=lambda gradient: gradient.label)
def test_what_a_cell_makes_of_its_injection_once_has_the_gradient_it_has_in_f(gradient: Gradient) -> None:
    def loss(logits: Tensor) -> Tensor:
        return logits.square().sum(dim=1)

    first, second = bound(Bound), bound(Plain)
    assert_close(gradient.input_gradient(first, X, loss), gradient.input_gradient(second, X, loss))
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(rd.Surrogate(first, gradient)(x), x, COTANGENT)
    (expected,) = torch.autograd.grad(rd.Surrogate(second, gradient)(x), x, COTANGENT)
    assert_close(found, expected)
    if gradient in FAMILIES:
        assert_close(gradient.input_gradients(first, X, loss), gradient.input_gradients(second, X, loss))


@pytest.mark.parametrize("gradient", TRAINING, ids=lambda gradient: gradient.label)
def test_tensor_that_is_listed_twice_counts_once(gradient: StateGradient) -> None:
    single, double = bound(Bound, "hW", gradient), bound(Bound, "hWW", gradient)
    assert_close(gradients_of(double, [double.cell.layer]), gradients_of(single, [single.cell.layer]))


@pytest.mark.parametrize("listed", ["uhW", "hWu"])
def test_tensor_that_is_made_of_another_one_listed_is_refused(listed: str) -> None:
    with pytest.raises(InputError, match="lists a tensor that is made of another one it lists"):
        bound(Bound, listed)(X)
    with torch.no_grad():
        assert_close(bound(Bound, listed)(X), bound(Plain)(X))


def test_weight_of_a_cell_with_its_own_bind_is_not_shared_with_the_injection() -> None:
    deq = bound(Bound)
    deq.injection = deq.cell.layer
    with pytest.raises(InputError, match="share no weight of it with the injection"):
        deq(X)
