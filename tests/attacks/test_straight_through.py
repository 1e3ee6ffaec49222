"""Straight through: the value is the model's own, the derivative that of the stand-in; what has one keeps it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import robustdeq as rd
from cells import CLASSES, IMAGE, VECTOR, TanhCell
from robustdeq.attacks import PGD, StraightThrough
from robustdeq.attacks.losses import correct
from robustdeq.attacks.straight_through import operations_without_derivative
from robustdeq.base.errors import InputError
from robustdeq.deq.modes import evaluating

PIXELS = 6
WEIGHT = torch.randn(PIXELS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

Function = Callable[[Tensor], Tensor]


class Model(nn.Module):
    """A function of flat images as a model."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def batch(n: int = 4, seed: int = 1) -> Tensor:
    return torch.rand(n, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    cotangent = torch.randn(len(x), CLASSES, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad(model(x), x, cotangent)[0]


@torch.no_grad()
def without_gradient(x: Tensor) -> Tensor:
    return x @ WEIGHT


def in_place(x: Tensor) -> Tensor:
    return (4 * x).round_() @ WEIGHT


def by_scatter(x: Tensor) -> Tensor:
    chosen = (x @ WEIGHT).argmax(dim=1, keepdim=True)
    return torch.zeros(len(x), CLASSES, dtype=x.dtype).scatter(1, chosen, torch.ones_like(chosen, dtype=x.dtype))


def likeliest(x: Tensor) -> Tensor:
    return (x @ WEIGHT).softmax(dim=1)


def known(x: Tensor) -> Tensor:
    return x.argmax(dim=1)


def shares(x: Tensor) -> Tensor:
    return x.softmax(dim=1)


PLANTED: dict[str, tuple[Function, Function, str]] = {
    "round": (lambda x: (4 * x).round() @ WEIGHT, lambda x: 4 * x @ WEIGHT, "round"),
    "round in place": (in_place, lambda x: 4 * x @ WEIGHT, "round"),
    "sign": (lambda x: (x - 0.5).sign() @ WEIGHT, lambda x: x @ WEIGHT, "sign"),
    "floor division": (lambda x: x // 0.1 @ WEIGHT, lambda x: x / 0.1 @ WEIGHT, "__floordiv__"),
    "rounded division": (
        lambda x: torch.div(x, 0.1, rounding_mode="trunc") @ WEIGHT,
        lambda x: x / 0.1 @ WEIGHT,
        "div",
    ),
    "remainder": (lambda x: (x - x % 0.1) @ WEIGHT, lambda x: x @ WEIGHT, "remainder"),
    "detach": (lambda x: x.detach() @ WEIGHT, lambda x: x @ WEIGHT, "detach"),
    "data": (lambda x: x.data @ WEIGHT, lambda x: x @ WEIGHT, "detach"),
    "no_grad": (without_gradient, lambda x: x @ WEIGHT, "no_grad"),
    "inference_mode": (torch.inference_mode()(lambda x: x @ WEIGHT), lambda x: x @ WEIGHT, "no_grad"),
    "integers": (lambda x: (255 * x).long().double() / 255 @ WEIGHT, lambda x: x @ WEIGHT, "long"),
    "high bits": (lambda x: ((255 * x).byte() & 0xF0).double() / 255 @ WEIGHT, lambda x: x @ WEIGHT, "byte"),
    "integer division": (lambda x: ((255 * x).int() // 16).double() @ WEIGHT, lambda x: 255 * x / 16 @ WEIGHT, "int"),
    "comparison": (lambda x: (x > 0.5).double() @ WEIGHT, lambda x: torch.sigmoid(x - 0.5) @ WEIGHT, "gt"),
    "comparison, less": (
        lambda x: (x < 0.5) * torch.ones_like(x) @ WEIGHT,
        lambda x: torch.sigmoid(0.5 - x) @ WEIGHT,
        "lt",
    ),
    "negation": (lambda x: (~(x > 0.5)).double() @ WEIGHT, lambda x: -torch.sigmoid(x - 0.5) @ WEIGHT, "gt"),
    "choice between two": (
        lambda x: torch.where(x > 0.5, 3.0, 1.0).double() @ WEIGHT,
        lambda x: 2 * torch.sigmoid(x - 0.5) @ WEIGHT,
        "gt",
    ),
    "mask": (
        lambda x: torch.ones_like(x).masked_fill(x > 0.5, 0.0) @ WEIGHT,
        lambda x: torch.where(x > 0.5, -1, 0) * torch.sigmoid(x - 0.5) @ WEIGHT,
        "gt",
    ),
    "one-hot of the likeliest": (
        lambda x: F.one_hot((x @ WEIGHT).argmax(dim=1), CLASSES).double(),
        likeliest,
        "argmax",
    ),
    "the same by scatter": (by_scatter, likeliest, "argmax"),
    "the same by comparison": (
        lambda x: torch.stack([((x @ WEIGHT).argmax(dim=1) == k).double() for k in range(CLASSES)], dim=1),
        likeliest,
        "argmax",
    ),
    "row of a table": (lambda x: WEIGHT[known(x)], lambda x: shares(x) @ WEIGHT, "argmax"),
    "embedding": (lambda x: F.embedding(known(x), WEIGHT), lambda x: shares(x) @ WEIGHT, "argmax"),
    "round by name": (lambda x: torch.round(input=4 * x) @ WEIGHT, lambda x: 4 * x @ WEIGHT, "round"),
    "detach by name": (lambda x: torch.detach(input=x) @ WEIGHT, lambda x: x @ WEIGHT, "detach"),
    "rounded division by name": (
        lambda x: torch.div(rounding_mode="trunc", other=0.1, input=x) @ WEIGHT,
        lambda x: x / 0.1 @ WEIGHT,
        "div",
    ),
    "comparison by name": (
        lambda x: torch.gt(x, other=0.5).double() @ WEIGHT,
        lambda x: torch.sigmoid(x - 0.5) @ WEIGHT,
        "gt",
    ),
    "choice between two by name": (
        lambda x: torch.where(input=torch.tensor(3.0), other=torch.tensor(1.0), condition=x > 0.5).double() @ WEIGHT,
        lambda x: 2 * torch.sigmoid(x - 0.5) @ WEIGHT,
        "gt",
    ),
    "mask by name": (
        lambda x: torch.ones_like(x).masked_fill(value=0.0, mask=x > 0.5) @ WEIGHT,
        lambda x: torch.where(x > 0.5, -1, 0) * torch.sigmoid(x - 0.5) @ WEIGHT,
        "gt",
    ),
    "stack by name": (
        lambda x: torch.stack(tensors=[x > 0.5, x > 0.7]).double().sum(dim=0) @ WEIGHT,
        lambda x: (torch.sigmoid(x - 0.5) + torch.sigmoid(x - 0.7)) @ WEIGHT,
        "gt",
    ),
    "index by name": (
        lambda x: torch.index_select(input=WEIGHT, index=known(x), dim=0),
        lambda x: shares(x) @ WEIGHT,
        "argmax",
    ),
    "likeliest by name": (
        lambda x: F.one_hot(torch.argmax(input=x @ WEIGHT, dim=1), CLASSES).double(),
        likeliest,
        "argmax",
    ),
    "choice between numbers with a derivative": (
        lambda x: torch.where(x > 0.5, x**2, 0.1 * x) @ WEIGHT,
        lambda x: (torch.where(x > 0.5, x**2, 0.1 * x) + torch.sigmoid(x - 0.5) * (x**2 - 0.1 * x).detach()) @ WEIGHT,
        "gt",
    ),
    "mask over numbers with a derivative": (
        lambda x: (3 * x).masked_fill(x > 0.5, 0.0) @ WEIGHT,
        lambda x: torch.where(x > 0.5, -torch.sigmoid(x - 0.5) * 3 * x.detach(), 3 * x) @ WEIGHT,
        "gt",
    ),
    "mask of −∞": (
        lambda x: x.masked_fill(x < 0.2, -torch.inf).softmax(dim=1) @ WEIGHT,
        lambda x: torch.where(x < 0.2, -torch.inf, x).softmax(dim=1) @ WEIGHT,
        "lt",
    ),
    "mask in place": (
        lambda x: (2 * x).mul_(x > 0.5) @ WEIGHT,
        lambda x: torch.where(x > 0.5, 2 * x, 0) @ WEIGHT,
        "gt",
    ),
    "largest, gathered": (
        lambda x: x.gather(1, x.argmax(dim=1, keepdim=True)) * WEIGHT[0],
        lambda x: x.amax(dim=1, keepdim=True) * WEIGHT[0],
        "argmax",
    ),
    "largest, by row and column": (
        lambda x: x[torch.arange(len(x)), x.argmax(dim=1)][:, None] * WEIGHT[0],
        lambda x: x.amax(dim=1, keepdim=True) * WEIGHT[0],
        "argmax",
    ),
    "scatter into numbers with a derivative": (
        lambda x: (x @ WEIGHT).scatter(1, (x @ WEIGHT).argmax(dim=1, keepdim=True), 0.0),
        lambda x: (x @ WEIGHT).where(x @ WEIGHT < (x @ WEIGHT).amax(dim=1, keepdim=True), 0),
        "argmax",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_value_is_the_models_own_and_the_derivative_that_of_the_stand_in(name: str) -> None:
    function, smooth, operation = PLANTED[name]
    model, x = Model(function), batch(PIXELS)
    straight = StraightThrough(model)
    assert_close(straight(x), model(x))
    assert_close(straight(x.requires_grad_()), model(x), check_stride=False)
    assert_close(gradient(straight, x), gradient(Model(smooth), x))
    found = operations_without_derivative(model, x)
    assert {own.name for own in found} == {operation}
    assert all(own.where.startswith("test_straight_through.py:") for own in found)


def smooth(x: Tensor) -> Tensor:
    hidden = torch.relu(x @ WEIGHT).clamp(0.1, 2).max(dim=1, keepdim=True).values * x.std(dim=1, keepdim=True)
    finite = torch.where(hidden.isfinite(), hidden, 0)
    named = torch.sum(torch.stack(tensors=[torch.clamp(min=0.1, input=x), x]), dim=0)
    return F.softmax(finite + F.leaky_relu(named @ WEIGHT), dim=1) + torch.zeros_like(input=finite)


@given(st.integers(0, 10_000))
def test_what_has_a_derivative_keeps_it(seed: int) -> None:
    model, x = Model(smooth), batch(3, seed)
    assert operations_without_derivative(model, x) == ()
    assert_close(gradient(StraightThrough(model), x), gradient(model, x))


def test_weights_may_be_rounded() -> None:
    assert operations_without_derivative(Model(lambda x: x @ WEIGHT.round().detach()), batch()) == ()


class Stepped(TanhCell):
    """A cell of rounded states, or of the same with the derivative of the identity."""

    def __init__(self, straight: bool) -> None:
        super().__init__(0.6)
        self.straight = straight

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        rounded = (20 * z).round() / 20
        return super().forward(z + (rounded - z).detach() if self.straight else rounded, u)


@pytest.mark.parametrize("defense", [rd.defenses.FinalState(), rd.defenses.EnsembleState()], ids=lambda d: d.label)
def test_operations_within_the_cell_are_found_and_passed_through_the_solver(defense: rd.defenses.StateDefense) -> None:
    models = []
    for straight in (False, True):
        torch.manual_seed(3)
        injection, head = nn.Sequential(nn.Flatten(), nn.Linear(6, VECTOR)), nn.Linear(VECTOR, CLASSES)
        models.append(rd.DEQ(injection, Stepped(straight), head, rd.solvers.Broyden(max_steps=5)).double().eval())
    x = torch.rand(4, *IMAGE, dtype=torch.float64)
    stepped, declared = (rd.Defended(model, defense) for model in models)
    with evaluating(stepped), evaluating(declared):
        assert [found.name for found in operations_without_derivative(stepped, x)] == ["round"]
        assert [found.name for found in operations_without_derivative(declared, x)] == ["round", "detach"]
        assert_close(StraightThrough(stepped)(x), stepped(x))
        assert_close(gradient(StraightThrough(stepped), x), gradient(declared, x))
        assert not torch.allclose(gradient(stepped, x), gradient(declared, x))


@pytest.mark.parametrize(
    "make", [lambda: rd.models.mdeq("nano", in_channels=1), lambda: rd.models.conv("digits", in_channels=1)]
)
def test_models_of_the_zoo_use_none(make: Callable[[], rd.DEQ]) -> None:
    deq = make()
    with evaluating(deq):
        for defense in (rd.defenses.FinalState(), rd.defenses.EarlyState(2), rd.defenses.EnsembleState()):
            assert operations_without_derivative(rd.Defended(deq, defense), torch.rand(1, 1, 8, 8)) == ()


def test_attack_straight_through_breaks_what_the_gradient_leaves() -> None:
    model = Model(lambda x: (8 * x).round() / 8 @ WEIGHT).eval()
    x = batch(40)
    y = model(x).argmax(dim=1)
    attack = PGD(eps=0.3, step_size=0.05, steps=20, seed=0)
    left = [correct(model(attack(climbed, x, y, model)), y).sum() for climbed in (model, StraightThrough(model).eval())]
    assert left[1] < left[0] / 2


def test_model_that_cannot_be_watched_is_refused_in_a_sentence() -> None:
    def stubborn(x: Tensor) -> Tensor:
        if x.requires_grad and type(x) is Tensor and torch.overrides._get_current_function_mode() is not None:
            raise RuntimeError("no")
        return x @ WEIGHT

    with pytest.raises(InputError, match=r"cannot be differentiated straight through .*: no"):
        operations_without_derivative(Model(stubborn), batch())


@pytest.mark.parametrize("error", [IndexError(), KeyError("width"), AttributeError("no"), AssertionError(), OSError()])
def test_whatever_a_model_raises_under_watch_is_told_in_a_sentence(error: Exception) -> None:
    def failing(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(InputError, match="cannot be differentiated straight through"):
        operations_without_derivative(Model(failing), batch())


@pytest.mark.parametrize("stand_in", ["stand_in", "carried_on"])
def test_an_operation_that_no_stand_in_is_found_for_is_left_as_it_is(
    stand_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        raise IndexError

    monkeypatch.setattr(f"robustdeq.attacks.straight_through.{stand_in}", lost)
    model, x = Model(lambda x: x @ WEIGHT + (x > 0.5).double() @ WEIGHT), batch()
    assert [found.name for found in operations_without_derivative(model, x)] == ["gt"]
    assert_close(gradient(StraightThrough(model), x), gradient(model, x))
