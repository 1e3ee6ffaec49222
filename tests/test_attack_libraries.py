"""Surrogates and defended models run as they are in foolbox, torchattacks, ART, AutoAttack and RobustBench."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import pyautoattack
import pytest
import torch
import torchattacks
from filelock import FileLock
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.testing import assert_close

import robustdeq as rd
from cells import CHANNELS, ConvolutionCell
from robustdeq.attacks import FGSM, PGD
from robustdeq.attacks.losses import correct
from robustdeq.deq.defenses import Defense, EarlyState, EnsembleState, FinalState
from robustdeq.gradients import (
    Defended,
    Ensemble,
    Gradient,
    Phantom,
    SimultaneousAdjoint,
    Surrogate,
    ThroughSolver,
    UnrolledIntermediate,
)
from robustdeq.models import DEQ, Unroll
from robustdeq.solvers import Broyden

# ART writes its settings when it is first imported, and fails where another process is reading them.
with FileLock(Path(tempfile.gettempdir()) / "robustdeq-tests-art.lock"):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.attacks.evasion import SquareAttack as ArtSquareAttack
    from art.estimators.classification import PyTorchClassifier

SIDE = 8
CLASSES = 10
SAMPLES = 6
EPS = {"Linf": 0.2, "L2": 0.9}
OF_ANY_LOSS: list[Gradient] = [Phantom(), UnrolledIntermediate(3, 2, 0.5), ThroughSolver(EarlyState(2))]
OF_A_LINEAR_LOSS: list[Gradient] = [SimultaneousAdjoint(3), Ensemble(UnrolledIntermediate(steps=1, damping=1.0))]
DEFENSES: list[Defense] = [FinalState(), EarlyState(3), EnsembleState()]
ALL: list[Gradient | Defense] = [*OF_ANY_LOSS, *OF_A_LINEAR_LOSS, *DEFENSES]
readings = pytest.mark.parametrize("reading", ALL, ids=repr)
defenses = pytest.mark.parametrize("defense", DEFENSES, ids=repr)
pytestmark = pytest.mark.xdist_group("libraries")


@pytest.fixture(scope="module")
def deq() -> DEQ:
    """Trained for a few steps, so that its labels mean something; in float64, so that they are the same everywhere."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    injection = nn.Conv2d(1, CHANNELS, 3, padding=1)
    head = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, CLASSES))
    deq = DEQ(injection, ConvolutionCell(1.0), head, Broyden(max_steps=4, tol=0), Unroll(1, 1.0), Phantom())
    torch.set_default_dtype(torch.float32)
    x, y = rd.data.load("digits").require("train").head(128).tensors()
    x = x.double()
    optimizer = torch.optim.Adam(deq.parameters(), 3e-2)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(deq(x), y).backward()
        optimizer.step()
    return deq.float().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data(deq: DEQ) -> tuple[Tensor, Tensor]:
    """Images that every reading classifies correctly."""
    x, y = rd.data.load("digits").require("test").head(60).tensors()
    with torch.no_grad():
        right = torch.stack([correct(module(deq, reading)(x), y) for reading in ALL]).all(dim=0)
    return x[right][:SAMPLES], y[right][:SAMPLES]


def module(deq: DEQ, reading: Gradient | Defense) -> nn.Module:
    made = Surrogate(deq, reading) if isinstance(reading, Gradient) else Defended(deq, reading)
    return made.eval()


def seen(deq: DEQ, reading: Gradient | Defense) -> nn.Module:
    """The module for our own attacks; behind a wrapper, so that they see only its backward pass, where that differs."""
    made = module(deq, reading)
    return nn.Sequential(made).eval() if reading in OF_A_LINEAR_LOSS else made


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return cross_entropy(model(x), y, reduction="none")


def labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def assert_within_ball(adversaries: Tensor, x: Tensor, eps: float, norm: str = "Linf") -> None:
    lengths = torch.linalg.vector_norm((adversaries - x).flatten(1), ord=2 if norm == "L2" else torch.inf, dim=1)
    assert lengths.max() <= eps + 1e-6
    assert lengths.min() > 0.1 * eps
    assert adversaries.min() >= 0
    assert adversaries.max() <= 1


def test_every_reading_classifies_the_images(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    assert len(x) == SAMPLES
    assert len(y.unique()) > 2


def foolbox_attack(norm: str, **settings: Any) -> Any:
    return {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[norm](**settings)


@pytest.mark.parametrize(
    ("reading", "norm"), [(r, "Linf") for r in ALL] + [(r, "L2") for r in (Phantom(), EnsembleState())], ids=repr
)
def test_foolbox_climbs_as_ours_does(
    reading: Gradient | Defense, norm: str, deq: DEQ, data: tuple[Tensor, Tensor]
) -> None:
    deq, eps = copy.deepcopy(deq).double(), EPS[norm]
    x, y = data[0][:4].double(), data[1][:4]
    model = module(deq, reading)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1))
    settings: dict[str, Any] = {"steps": 3, "random_start": False}
    _, theirs, fooled = foolbox_attack(norm, abs_stepsize=eps / 2, **settings)(peer, x, y, epsilons=eps)
    ours = PGD(eps, eps / 2, norm=norm, **settings)(seen(deq, reading), x, y)
    assert_within_ball(theirs, x, eps, norm)
    assert_close(theirs, ours, rtol=0, atol=1e-8)
    assert losses(model, theirs, y).mean() > 2 * losses(model, x, y).mean()
    assert torch.equal(fooled, labels(model, theirs) != y)


@readings
def test_fgsm_of_foolbox_is_ours(reading: Gradient | Defense, deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    (x, y), deq = data, copy.deepcopy(deq).double()
    x = x.double()
    peer = foolbox.PyTorchModel(module(deq, reading), bounds=(0, 1))
    _, theirs, _ = foolbox.attacks.FGSM()(peer, x, y, epsilons=0.1)
    assert_close(theirs, FGSM(0.1)(seen(deq, reading), x, y), rtol=0, atol=1e-8)
    assert_within_ball(theirs, x, 0.1)


@readings
def test_pgd_of_torchattacks_is_ours(reading: Gradient | Defense, deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    deq, eps = copy.deepcopy(deq).double(), EPS["Linf"]
    x, y = data[0][:4].double(), data[1][:4]
    theirs = torchattacks.PGD(module(deq, reading), eps, 0.1, steps=3, random_start=False)(x, y)
    assert_within_ball(theirs, x, eps)
    assert_close(theirs, PGD(eps, 0.1, steps=3, random_start=False)(seen(deq, reading), x, y), rtol=0, atol=1e-8)


@defenses
def test_square_attack_of_torchattacks_fools_a_defended_model(
    defense: Defense, deq: DEQ, data: tuple[Tensor, Tensor]
) -> None:
    (x, y), model = data, module(deq, defense)
    adversaries = torchattacks.Square(model, eps=EPS["Linf"], n_queries=20)(x, y)
    fooled = labels(model, adversaries) != y
    assert fooled.any()
    assert_within_ball(adversaries[fooled], x[fooled], EPS["Linf"])


def classifier(model: nn.Module) -> PyTorchClassifier:
    """Loss summed over the samples, so that its gradient is each sample's own; clip values are the range of pixels."""
    loss = nn.CrossEntropyLoss(reduction="sum")
    return PyTorchClassifier(model, loss, (1, SIDE, SIDE), CLASSES, clip_values=(0, 1), device_type="cpu")


@readings
def test_gradient_that_art_computes_is_ours(reading: Gradient | Defense, deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    art = classifier(module(deq, reading))
    gradient = reading if isinstance(reading, Gradient) else ThroughSolver(reading)
    logits = torch.from_numpy(art.predict(x.numpy()))
    with torch.no_grad():
        assert_close(logits, module(deq, reading)(x))
    linear = logits.softmax(dim=1) - one_hot(y, CLASSES)
    found = torch.from_numpy(art.loss_gradient(x.numpy(), one_hot(y, CLASSES).numpy()))
    expected = gradient.input_gradient(deq, x, lambda logits: (logits * linear).sum(1))
    assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    differs = gradient.input_gradient(deq, x, lambda logits: cross_entropy(logits, y, reduction="none")) - found
    assert (differs.norm() > 1e-3 * found.norm()) == (reading in OF_A_LINEAR_LOSS)


@readings
def test_pgd_of_art_is_ours(reading: Gradient | Defense, deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    x, y = data[0][:4], data[1][:4]
    art = classifier(module(deq, reading))
    attack = ProjectedGradientDescent(art, np.inf, eps=EPS["Linf"], eps_step=0.1, max_iter=3, verbose=False)
    theirs = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
    assert_within_ball(theirs, x, EPS["Linf"])
    assert_close(
        theirs, PGD(EPS["Linf"], 0.1, steps=3, random_start=False)(seen(deq, reading), x, y), rtol=0, atol=1e-4
    )


@defenses
def test_square_attack_of_art_fools_a_defended_model(defense: Defense, deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    (x, y), model = data, module(deq, defense)
    np.random.seed(0)  # noqa: NPY002
    attack = ArtSquareAttack(classifier(model), eps=EPS["Linf"], max_iter=20, verbose=False)
    adversaries = torch.from_numpy(attack.generate(x.numpy(), one_hot(y, CLASSES).numpy()))
    assert_within_ball(adversaries, x, EPS["Linf"])
    assert (labels(model, adversaries) != y).any()
    assert losses(model, adversaries, y).mean() > 2 * losses(model, x, y).mean()


@readings
def test_apgd_climbs_every_reading(reading: Gradient | Defense, deq: DEQ, data: tuple[Tensor, Tensor]) -> None:
    (x, y), model = data, module(deq, reading)
    adversaries = APGDAttack(model, n_iter=3, eps=EPS["Linf"], device="cpu").perturb(x, y, best_loss=True)
    assert_within_ball(adversaries, x, EPS["Linf"])
    assert losses(model, adversaries, y).mean() > 2 * losses(model, x, y).mean()


@defenses
def test_square_attack_of_autoattack_fools_a_defended_model(
    defense: Defense, deq: DEQ, data: tuple[Tensor, Tensor]
) -> None:
    (x, y), model = data, module(deq, defense)
    adversaries = SquareAttack(model, n_queries=20, eps=EPS["Linf"], device="cpu").perturb(x, y)
    fooled = labels(model, adversaries) != y
    assert fooled.any()
    assert torch.equal((adversaries != x).flatten(1).any(dim=1), fooled)
    assert_within_ball(adversaries[fooled], x[fooled], EPS["Linf"])


def shortened(suite: Any) -> Any:
    """AutoAttack with a few steps, restarts and target classes of each attack."""
    for attack in (suite.apgd, suite.apgd_targeted, suite.fab):
        attack.n_iter, attack.n_restarts = 3, 1
    suite.apgd.n_iter_orig = suite.apgd_targeted.n_iter_orig = 3
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = 2
    suite.square.n_queries = 20
    return suite


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_every_attack_of_the_standard_autoattack_fools_a_defended_model(
    attack: Any, deq: DEQ, data: tuple[Tensor, Tensor]
) -> None:
    (x, y), model, eps = data, module(deq, EnsembleState()), EPS["Linf"]
    suite = shortened(pyautoattack.AutoAttack(model, attacks=[attack], version="custom", eps=eps, seed=0))
    adversaries, found = suite.run_standard_evaluation(x, y)
    fooled = found != y
    assert fooled.any()
    assert torch.equal(found, labels(model, adversaries))
    assert torch.equal(adversaries[~fooled], x[~fooled])
    assert (adversaries - x).abs().max() <= eps + 1e-6


@defenses
def test_robustbench_judges_a_defended_model(
    defense: Defense, deq: DEQ, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluation = pytest.importorskip(
        "robustbench.eval",
        reason="RobustBench needs torchvision and timm, for which no CPU build matches this torch.",
        exc_type=ImportError,
    )
    suite = evaluation.AutoAttack
    monkeypatch.setattr(evaluation, "AutoAttack", lambda *given, **settings: shortened(suite(*given, **settings)))
    monkeypatch.setattr(evaluation, "load_clean_dataset", lambda *asked: data)
    monkeypatch.chdir(tmp_path)
    settings = {"dataset": "cifar10", "threat_model": "Linf", "eps": EPS["Linf"], "to_disk": True, "model_name": "deq"}
    clean, robust = evaluation.benchmark(module(deq, defense), SAMPLES, **settings)
    assert clean == 1
    assert robust < 1
    entry = json.loads(Path("model_info/cifar10/Linf/deq.json").read_text())
    assert float(entry["autoattack_acc"]) == round(100 * robust, 2)
