"""A defense, a gradient and an attack from outside the package are measured as the package's own are."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

import robustdeq as rd
from diverging import CLASS, DIM, diverging
from robustdeq.attacks import PGD, Attack, Cost, Linf, ThreatModel
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.base.imports import imported
from robustdeq.base.progress import Report
from robustdeq.base.provenance import describe
from robustdeq.defenses import AsIs, Defense, FinalState
from robustdeq.evaluation import Chosen, Estimators, GridResult, Paper, Store, Strict, measure
from robustdeq.evaluation.probes import PROBES
from robustdeq.evaluation.store import FILE
from robustdeq.gradients import Gradient, Phantom
from robustdeq.models import DEQ, MDEQ

pytestmark = pytest.mark.xdist_group("strangers")
ATTACK = PGD(eps=0.1, step_size=0.05, steps=2)
ESTIMATORS = Estimators(steps=(1,), dampings=(1.0,), states=2)


@dataclass(frozen=True)
class Blurred(Defense):
    """The model on a blurred image."""

    width: int = 3

    @override
    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return model(F.avg_pool2d(x, self.width, stride=1, padding=self.width // 2))

    @override
    def evaluations(self, model: nn.Module) -> int:
        return 9


@dataclass(frozen=True)
class Shortened(Gradient):
    """A gradient that unrolls one step."""

    inner: Gradient = field(default_factory=lambda: Phantom(steps=1, damping=1.0))

    @override
    def evaluations(self, deq: DEQ) -> int:
        return self.inner.evaluations(deq)

    @override
    def logits(self, deq: DEQ, x: Tensor) -> Tensor:
        return self.inner.logits(deq, x)


@dataclass(frozen=True)
class Noise(Attack):
    """An attack that climbs nothing: a random corner of the ball."""

    eps: float = 0.1
    seed: int = 0

    @property
    @override
    def threat(self) -> ThreatModel:
        return ThreatModel(self.eps)

    @property
    @override
    def cost(self) -> Cost:
        return Cost(0)

    @property
    @override
    def label(self) -> str:
        return "noise"

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Tensor, y: Tensor, report: Report) -> Tensor:
        signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed)).sign()
        return (x + self.eps * signs).clamp(0, 1)


@dataclass(frozen=True)
class Escaping(Noise):
    """An attack that leaves the ball."""

    @override
    def search(self, surrogate: nn.Module, judge: nn.Module, x: Tensor, y: Tensor, report: Report) -> Tensor:
        return 1 - x


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return rd.data.load("digits").require("test").head(12).tensors()


@pytest.fixture(scope="module")
def folder(trained: MDEQ, data: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    strict = Strict(ATTACK, ESTIMATORS, steps=2, restarts=2, apgd_steps=2, targets=1, queries=4, probe_images=6)
    defenses = {"final": FinalState(), "mine": Blurred()}
    measure(trained, *data, strict, defenses=defenses, gradients={"own": Shortened()}, batch_size=6, folder=folder)
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> GridResult:
    with Store.read(folder / FILE) as store:
        return rd.evaluation.assemble(store)


def test_defense_gets_the_adaptive_columns_with_itself_as_the_judge(folder: Path, result: GridResult) -> None:
    with Store.read(folder / FILE) as store:
        columns = {column["id"]: column["attempts"] for column in store.manifest["columns"]}
    assert result.defenses == ("final", "mine")
    said = describe(Blurred())
    for column in ("through-mine", "restarts", "apgd", "apgd-t", "square", "one-step", "unbounded"):
        against = [attempt["settings"] for attempt in columns[column] if attempt["settings"]["against"] == "mine"]
        assert [settings["climbs"]["defense"] for settings in against] == [said]
    assert len(result.checks) == 8 + len(PROBES)
    assert result.settings["defenses"]["mine"] == said
    assert {"class": "Blurred", "width": 3}.items() < said.items()


def test_each_cell_of_the_defense_is_the_attack_through_it(
    trained: MDEQ, data: tuple[Tensor, Tensor], result: GridResult
) -> None:
    x, y = data
    blurred = rd.Defended(trained, Blurred()).eval()
    stands = []
    for batch in range(2):
        chosen = slice(6 * batch, 6 * batch + 6)
        adversaries = PGD(0.1, 0.05, 2, seed=batch)(blurred, x[chosen], y[chosen])
        with torch.no_grad():
            stands.append(correct(blurred(adversaries), y[chosen]).numpy())
    assert np.array_equal(result.per_sample[1, result.ids.index("through-mine")], np.concatenate(stands))
    with torch.no_grad():
        assert np.array_equal(result.clean[1], correct(blurred(x), y).numpy())


def test_gradient_is_a_column_of_its_own(result: GridResult) -> None:
    j = result.ids.index("own-own")
    assert result.gradients[j] == Shortened().label
    assert result.beyond_paper[j]
    assert not (result.standing & ~result.per_sample[:, j]).any()


def test_attack_is_made_with_the_seed_of_its_batch(trained: MDEQ, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    noise = Chosen(ATTACK, {"noise": (Noise(seed=3), None)})
    found = measure(trained, x, y, noise, defenses={"final": FinalState()}, batch_size=6)
    noisy = torch.cat(
        [Noise(seed=3 + i)(trained, a, b) for i, (a, b) in enumerate(zip(x.split(6), y.split(6), strict=True))]
    )
    with torch.no_grad():
        assert np.array_equal(found.per_sample[0, 0], correct(trained(noisy), y).numpy())


@dataclass(frozen=True)
class Rooks(Linf):
    """The largest change of a pixel, under another name."""


def test_norm_is_climbed_and_named(trained: MDEQ, data: tuple[Tensor, Tensor]) -> None:
    attacks = [replace(ATTACK, norm=norm) for norm in ("Linf", Rooks())]
    usual, own = (measure(trained, *data, Paper(attack, ESTIMATORS), early=2) for attack in attacks)
    assert np.array_equal(usual.per_sample, own.per_sample)
    assert [found.settings["attack"]["norm"] for found in (usual, own)] == ["Linf", "Rooks"]


def test_adversaries_that_leave_the_ball_end_in_one_sentence(trained: MDEQ, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError):
        measure(trained, *data, Chosen(ATTACK, {"out": (Escaping(), None)}), defenses={"final": FinalState()})


def test_defense_of_an_explicit_network_is_attacked_through_itself(data: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    attacks = {"PGD": (ATTACK, None)}
    found = measure(network, *data, Chosen(ATTACK, attacks), defenses={"mine": Blurred(), "network": AsIs()})
    blurred = rd.Defended(network, Blurred()).eval()
    adversaries = ATTACK(blurred, *data)
    with torch.no_grad():
        assert np.array_equal(found.per_sample[0, 0], correct(blurred(adversaries), data[1]).numpy())


def test_explicit_network_under_the_protocol_of_a_deq_is_refused(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="has no states to read"):
        measure(nn.Linear(2, 2), *data, Paper(ATTACK), defenses={"network": AsIs()})
    with pytest.raises(InputError, match=r"a DEQ as it is hides that a solve diverged; read it by FinalState\(\)"):
        measure(diverging(), DIM, CLASS, Chosen(ATTACK), defenses={"network": AsIs()})


def test_other_settings_of_the_defense_are_other_results(
    trained: MDEQ, data: tuple[Tensor, Tensor], folder: Path
) -> None:
    strict = Strict(ATTACK, ESTIMATORS, steps=2, restarts=2, apgd_steps=2, targets=1, queries=4, probe_images=6)
    defenses = {"final": FinalState(), "mine": Blurred(width=5)}
    with pytest.raises(InputError, match="made with other settings"):
        measure(trained, *data, strict, defenses=defenses, gradients={"own": Shortened()}, batch_size=6, folder=folder)


MINE = """
from robustdeq.attacks import PGD
from robustdeq.defenses import AsIs
from robustdeq.evaluation import Chosen

class Blurred(AsIs):
    def logits(self, model, x):
        return model(x + 0.1)

class Climbing(PGD):
    def loss(self, logits, y):
        return super().loss(logits + 0.1, y)

class Rows(Chosen):
    def defenses(self, early):
        return {"0.1": AsIs()}

def defense(attack):
    return Chosen(attack, {"PGD": (attack, None)}), {"mine": Blurred()}

def attack(attack):
    return Chosen(attack, {"PGD": (Climbing(attack.eps), None)}), {"network": AsIs()}

def protocol(attack):
    return Rows(attack, {"PGD": (attack, None)}), None
"""


@pytest.mark.parametrize("kind", ["defense", "attack", "protocol"])
def test_other_code_is_other_results(kind: str, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()

    def measured(name: str) -> GridResult:
        protocol, defenses = imported(f"{tmp_path / name}:{kind}")(ATTACK)
        return measure(network, *data, protocol, defenses=defenses, folder=tmp_path / "out")

    (tmp_path / "one.py").write_text(MINE)
    (tmp_path / "other.py").write_text(MINE.replace("0.1", "0.2"))
    first, again = measured("one.py"), measured("one.py")
    assert np.array_equal(first.per_sample, again.per_sample)
    with pytest.raises(InputError, match="made with other settings"):
        measured("other.py")


def test_another_network_of_the_same_weights_is_another_model(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    layers = nn.Linear(64, 16), nn.Linear(16, 10)
    networks = (nn.Sequential(nn.Flatten(), layers[0], act, layers[1]).eval() for act in (nn.ReLU(), nn.Tanh()))
    protocol = Chosen(ATTACK, {"PGD": (ATTACK, None)})
    measure(next(networks), *data, protocol, defenses={"network": AsIs()}, folder=tmp_path)
    with pytest.raises(InputError, match="were made of another model"):
        measure(next(networks), *data, protocol, defenses={"network": AsIs()}, folder=tmp_path)
