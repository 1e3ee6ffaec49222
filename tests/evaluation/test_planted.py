"""Models planted to look robust: each is broken as far as an attack written for it goes, or named by a check.

The attack written for a model is made on a twin without the obstacle, and judged on the model itself: for what is
rounded, detached or shattered that is BPDA, and for what is left to chance the attack on its mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustdeq as rd
from robustdeq.attacks import PGD, MomentumPGD, MultiTargeted
from robustdeq.attacks.losses import correct
from robustdeq.deq.modes import evaluating
from robustdeq.evaluation import CheckVerdict, Estimators, WorstCase, measure
from robustdeq.solvers import Broyden

IMAGES = 50
ATTACK = PGD(eps=0.1, step_size=0.025, steps=10)
Function = Callable[[Tensor], Tensor]


class Cell(nn.Module):
    """tanh(W z + u), a contraction."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(units, units))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(z @ (0.7 * self.weight / self.weight.norm()).T + u)


class Then(nn.Module):
    """A function after a module, or before it."""

    def __init__(self, module: nn.Module, after: Function | None = None, before: Function | None = None) -> None:
        super().__init__()
        self.module, self.after, self.before = module, after, before

    def forward(self, x: Tensor) -> Tensor:
        made = self.module(x if self.before is None else self.before(x))
        return made if self.after is None else self.after(made)


class Shaken(nn.Module):
    """A cell whose states are noisy."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        made = self.cell(z, u)
        return made + 0.3 * torch.randn_like(made)


class Branched(nn.Module):
    """An injection that carries its features rounded, and beside them a little of others that lead nowhere."""

    def __init__(self, injection: nn.Module) -> None:
        super().__init__()
        self.injection = injection
        self.elsewhere = torch.randn(64, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(2 * self.injection(x)) / 2 + 0.02 * x.flatten(1) @ self.elsewhere


class Decoyed(nn.Module):
    """A head with the derivative of another."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.decoy = torch.randn(32, 10, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def forward(self, z: Tensor) -> Tensor:
        decoy = z @ self.decoy
        return decoy + (self.head(z) - decoy).detach()


class Unwatched(nn.Module):
    """A head that keeps no graph."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        return self.head(z)


class Half(nn.Module):
    """A cell that computes in 16 bits."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return self.cell(z, u).half().to(z.dtype)


@dataclass(frozen=True)
class Plant:
    """An obstacle.

    Attributes:
        make: makes the model with it from the honest one.
        check: the check that names it, if it is not broken; empty where it has to be.
    """

    make: Callable[[rd.DEQ], rd.DEQ]
    check: str = ""


def deq_of(honest: rd.DEQ, **parts: nn.Module | Broyden) -> rd.DEQ:
    own = {name: getattr(honest, name) for name in ("injection", "cell", "head", "solver", "tail", "gradient")}
    return rd.DEQ(**own | parts).eval()


def logits(function: Function, check: str = "") -> Plant:
    return Plant(lambda honest: deq_of(honest, head=Then(honest.head, after=function)), check)


def pixels(function: Function, check: str = "") -> Plant:
    return Plant(lambda honest: deq_of(honest, injection=Then(honest.injection, before=function)), check)


def off_the_data(instead: float) -> Function:
    """Every pixel of an image whose greys are none of the 17 of the data is something else instead."""

    def moved(x: Tensor) -> Tensor:
        strange = ((16 * x).round() - 16 * x).abs().flatten(1).amax(dim=1) > 1e-3
        return torch.where(strange[:, None, None, None], instead, x)

    return moved


def injected(module: Callable[[nn.Module], nn.Module]) -> Plant:
    return Plant(lambda honest: deq_of(honest, injection=module(honest.injection)))


def headed(module: Callable[[nn.Module], nn.Module]) -> Plant:
    return Plant(lambda honest: deq_of(honest, head=module(honest.head)))


CHANCE = "logits depend on chance or on the batch"
PLANTS = {
    "nothing": Plant(lambda honest: honest),
    "saturated logits": logits(lambda made: 1e4 * made),
    "rounded logits": logits(lambda made: (2 * made).round() / 2),
    "vanishing temperature": logits(lambda made: 1e9 * made),
    "exploding temperature": logits(lambda made: 1e-9 * made),
    "argmax head": logits(lambda made: F.one_hot(made.argmax(dim=1), 10).to(made.dtype)),
    "soft one-hot output": logits(lambda made: (500 * made).softmax(dim=1), "zero gradients"),
    "noise in the logits": Plant(
        lambda honest: deq_of(honest, head=Then(honest.head, after=lambda made: made + torch.randn_like(made))), CHANCE
    ),
    "head without a graph": headed(Unwatched),
    "decoy gradient": headed(Decoyed),
    "cell of 16 bits": Plant(lambda honest: deq_of(honest, cell=Half(honest.cell))),
    "quantised input": pixels(lambda x: (4 * x).round() / 4),
    "noise in the input": pixels(lambda x: x + 0.2 * torch.randn_like(x), CHANCE),
    "noise in the cell": Plant(lambda honest: deq_of(honest, cell=Shaken(honest.cell)), CHANCE),
    "output that depends on the batch": pixels(lambda x: 0.3 + x - x.mean(dim=0), CHANCE),
    "shattered gradient": pixels(lambda x: x + 0.02 * torch.sin(400 * x), "one step beats many"),
    "divergence off the data": pixels(off_the_data(torch.nan)),
    "constant output off the data": pixels(off_the_data(0.0)),
    "detached injection": injected(lambda own: Then(own, after=Tensor.detach)),
    "step injection": injected(lambda own: Then(own, after=lambda made: 4 * (made > 0).to(made.dtype) - 2)),
    "rounded features": injected(Branched),
    "one-step solver": Plant(lambda honest: deq_of(honest, solver=Broyden(max_steps=1))),
}


@pytest.fixture(scope="module")
def honest() -> rd.DEQ:
    """A DEQ of 32 units, trained on digits in float64."""
    torch.manual_seed(0)
    injection = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Unflatten(1, (32,)))
    deq = rd.DEQ(injection, Cell(32), nn.Linear(32, 10), Broyden(max_steps=6, tol=1e-6)).double()
    x, y = rd.data.load("digits").require("train").head(600).tensors()
    optimizer = torch.optim.Adam(deq.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(deq(x.double()), y).backward()
        optimizer.step()
    return deq.eval()


@torch.no_grad()
def standing(model: nn.Module, adversaries: Tensor, y: Tensor) -> Tensor:
    return torch.stack([correct(model(adversaries), y) for _ in range(4)]).all(dim=0)


@pytest.mark.parametrize("name", PLANTS)
def test_obstacle_is_broken_or_named(honest: rd.DEQ, name: str) -> None:
    torch.manual_seed(1)
    plant, (x, y) = PLANTS[name], rd.data.load("digits").require("test").head(IMAGES).tensors()
    x, planted = x.double(), PLANTS[name].make(honest)
    protocol = WorstCase(
        ATTACK, Estimators(steps=(1,), dampings=(1.0,), states=2), steps=10, restarts=1, apgd_steps=20, queries=60
    )
    with evaluating(planted):
        left = standing(planted, x, y)
        targeted = MultiTargeted(MomentumPGD.like(ATTACK, 30, 1), 5)
        for attack in (ATTACK, targeted):
            left &= standing(planted, attack(honest, x, y), y)
    result = measure(planted, x, y, protocol, defenses={"final": rd.defenses.FinalState()}, batch_size=IMAGES)
    found = float(result.worst_case[0])
    verdicts = {check.name: check.verdict for check in result.checks}
    named = verdicts.get(plant.check) is CheckVerdict.FAILED
    assert named or found <= float(left.double().mean()) + 0.02
    if name == "nothing":
        assert CheckVerdict.FAILED not in verdicts.values()
    if name == "rounded features":
        assert verdicts["operations without a derivative"] is CheckVerdict.FAILED
