"""A norm, and an attack, that the package does not know are used as its own are."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from cells import CLASSES, images, make_deq
from robustdeq.attacks import APGD, PGD, Attack, AutoAttack, BallAttack, Cost, JointAttack, Norm, Square, StoppingPGD
from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.deq import Defended
from robustdeq.deq.defenses import EarlyState, FinalState
from robustdeq.evaluation import Chosen
from robustdeq.evaluation.job import Job
from robustdeq.evaluation.measure import measure, plan
from robustdeq.evaluation.store import Store
from robustdeq.gradients import EntropyReduced, EntropyReduction, Gradient, Phantom, ThroughSolver

pytestmark = pytest.mark.usefixtures("float64")
BOUNDS = (-20.0, 20.0)
ROWS = {"final": FinalState(), "early": EarlyState(2)}


@dataclass(frozen=True)
class Stripes(Norm):
    """The maximum norm, in which every other pixel is `factor` times as dear."""

    factor: float = 4.0

    @property
    def name(self) -> str:
        return f"Stripes {self.factor:g}"

    def weights(self, x: Tensor) -> Tensor:
        return 1 + (self.factor - 1) * (torch.arange(x[0].numel()) % 2).view(x.shape[1:]).to(x)

    def size(self, offset: Tensor) -> Tensor:
        return (self.weights(offset) * offset).flatten(1).abs().amax(dim=1)

    def uniform(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1) / self.weights(x)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign() / self.weights(gradient)

    def project(self, offset: Tensor, eps: float) -> Tensor:
        radius = eps / self.weights(offset)
        return offset.clamp(-radius, radius)


@dataclass(frozen=True)
class Guess(BallAttack):
    """A random point of the ball, which may be broken afterwards."""

    eps: float = 0.5
    norm: str | Norm = "Linf"
    bounds: tuple[float, float] = BOUNDS
    seed: int = 0
    breaking: Callable[[Tensor], Tensor] | None = None

    @property
    def cost(self) -> Cost:
        return Cost(0)

    @property
    def label(self) -> str:
        return "a guess"

    @property
    def climbs(self) -> str:
        return "nothing: a guess"

    def search(self, surrogate: nn.Module, judge: nn.Module, x: Tensor, y: Tensor, report: Report) -> Tensor:
        report(0.5, "guessing")
        guess = self.threat.random_start(x, torch.Generator().manual_seed(self.seed))
        return guess if self.breaking is None else self.breaking(guess)


def job(threat: PGD, **attacks: tuple[Attack, Gradient | None]) -> Job:
    deq, x = make_deq().eval(), images(6)
    protocol = Chosen(threat, attacks)
    return plan(deq, x, deq(x).argmax(dim=1), protocol, defenses=ROWS, batch_size=4)


@pytest.mark.parametrize("attack", [PGD, StoppingPGD, JointAttack])
def test_norm_from_outside_shapes_the_attacks(attack: type[PGD]) -> None:
    x = images()
    made = attack(0.4, 0.1, steps=8, norm=Stripes(), bounds=BOUNDS)
    found = made(make_deq().eval(), x, torch.tensor([0, 1, 2]) % CLASSES)
    made.threat.check_adversaries(found, x)
    moved = (found - x).abs().flatten(1).amax(dim=0)
    assert moved[::2].min() > 0.1 >= moved[1::2].max() - 1e-12
    assert made.norm == "Stripes 4"
    assert replace(made, eps=0.2).norm == "Stripes 4"
    assert json.loads(json.dumps(asdict(made)))["norm"] == "Stripes 4"


def test_norm_from_outside_moves_the_input_of_entropy_reduction() -> None:
    reduction = EntropyReduction(interval=1, steps=2, step_size=0.1, eps=0.4, norm=Stripes(), bounds=BOUNDS)
    deq, x = make_deq().eval(), images().requires_grad_()
    defended = EntropyReduced(deq, reduction)
    moved = defended.move(x, deq.solve(x).final.view_as(deq.injection(x)), x)
    reduction.threat.check_adversaries(moved.detach(), x.detach())
    assert (moved != x).any()
    assert torch.autograd.grad(defended(x).sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("make", [APGD, Square, AutoAttack])
def test_library_refuses_a_norm_that_it_does_not_know(make: Callable[..., Attack]) -> None:
    with pytest.raises(InputError, match="runs in the norms Linf, L2, L1 and norm is 'Stripes 4'; use PGD"):
        make(norm=Stripes())


def test_evaluation_attempts_an_attack_and_a_norm_from_outside() -> None:
    pgd = PGD(0.5, 0.1, steps=2, norm=Stripes(), bounds=BOUNDS)
    asked = job(pgd, guess=(Guess(norm=Stripes()), None), climb=(pgd, ThroughSolver(FinalState())))
    store = Store.create(None, asked.manifest())
    reports: list[str] = []
    asked.run(store, report=lambda share, what: reports.append(what))
    assert "guess, guessing, batch 2 of 2" in reports
    guess, climbed = (column["attempts"][0] for column in store.manifest["columns"])
    assert guess["climbs"] == "nothing: a guess"
    assert climbed["climbs"] == ThroughSolver(FinalState()).label
    for number in range(2):
        run = store.get(guess["key"], number)
        assert run is not None
        chosen = slice(4 * number, 4 * number + 4)
        x, y = asked.x[chosen], asked.y[chosen]
        adversaries = Guess(norm=Stripes())(nn.Identity().eval(), x, y)
        with torch.no_grad():
            expected = [(row.judge(adversaries).argmax(dim=1) == y).numpy() for row in asked.rows]
        assert np.array_equal(run.outcome.standing, expected)


def test_an_attack_from_outside_is_a_column_against_every_row() -> None:
    deq, x = make_deq().eval(), images(6)
    y = deq(x).argmax(dim=1)
    settings = {"defenses": ROWS, "batch_size": 6}
    found = measure(deq, x, y, Chosen(PGD(0.5, bounds=BOUNDS)), attacks={"mine": Guess()}, **settings)
    made = Guess()(nn.Identity().eval(), x, y)
    expected = [Defended(deq, row)(made).argmax(dim=1) == y for row in ROWS.values()]
    column = found.columns.index("mine")
    assert np.array_equal(found.per_sample[:, column], torch.stack(expected).numpy())
    with pytest.raises(InputError, match=r"the attack 'mine' has ThreatModel\(eps=0\.1, .* give one"):
        measure(deq, x, y, Chosen(PGD(0.5, bounds=BOUNDS)), attacks={"mine": Guess(eps=0.1)}, **settings)
    with pytest.raises(InputError, match="there is a column 'mine' already; give the other another name"):
        beside = {"attacks": {"mine": Guess()}, "gradients": {"mine": Phantom()}}
        measure(deq, x, y, Chosen(PGD(0.5, bounds=BOUNDS)), **beside, **settings)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda x: x.masked_fill(x > x.mean(), torch.nan), "pixels that are not finite"),
        (lambda x: x + 40, r"outside \[-20, 20\]"),
        (lambda x: x + 1, "further than eps = 0.5"),
    ],
    ids=["nan", "bounds", "ball"],
)
def test_adversaries_that_break_the_threat_model_end_the_evaluation(
    breaking: Callable[[Tensor], Tensor], message: str
) -> None:
    pgd = PGD(0.5, 0.1, steps=1, bounds=BOUNDS)
    asked = job(pgd, climb=(pgd, Phantom()), guess=(Guess(breaking=breaking), None))
    store = Store.create(None, asked.manifest())
    with pytest.raises(InputError, match=message):
        asked.run(store)
    kept, refused = (column["attempts"][0]["key"] for column in store.manifest["columns"])
    assert store.get(kept, 1) is not None
    assert store.get(refused, 0) is None


def test_command_lines_list_the_settings_of_an_attack() -> None:
    parser = ArgumentParser()
    parser.add_argument("--attack", type=PGD, default=PGD())
    text = parser.format_help()
    assert all(f"--attack.{setting.name}" in text for setting in fields(PGD))
    parsed = parser.parse_args(["--attack.norm", "L1", "--attack.eps", "12"])
    assert parser.instantiate(parsed).attack == PGD(12, norm="L1")
