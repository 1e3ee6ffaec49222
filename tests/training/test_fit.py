"""A training run: from data to the best weights on disk, the same every time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.attacks.pgd import correct
from robustdeq.data import RandomCropFlip, Splits
from robustdeq.errors import InputError
from robustdeq.evaluation import choose_early_state
from robustdeq.gradients import Exact, Gradient, Phantom, StateGradient, Surrogate, ThroughSolver
from robustdeq.models import DEQ, MDEQ
from robustdeq.models.zoo import read_card
from robustdeq.training import (
    AdversarialTraining,
    JacobianRegularization,
    Objective,
    Optimization,
    Recipe,
    Schedule,
    Standard,
    Validation,
    fit,
)

ATTACK = PGD(eps=0.15, step_size=0.1, steps=1)
SHORT = Schedule(epochs=4, batch_size=32, validation_images=24, seed=0)
BRIEF = replace(SHORT, epochs=1, max_steps=3)


def digits(train: int = 128) -> Splits:
    splits = rd.data.load("digits")
    return Splits(splits.require("train").head(train), splits.development, None)


def model(gradient: StateGradient | None = None) -> MDEQ:
    torch.manual_seed(1)
    deq = rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=4), in_channels=1)
    deq.gradient = Phantom(3, 0.5) if gradient is None else gradient
    return deq


def recipe(objective: Objective | None = None, schedule: Schedule = SHORT, **settings: Any) -> Recipe:
    return Recipe(
        **{
            "objective": objective or Standard(),
            "optimization": Optimization(1e-2, 1e-3, clip_norm=1.0),
            "schedule": schedule,
            "augmentation": None,
            "validation": Validation(ATTACK, Phantom(3, 0.5)),
        }
        | settings
    )


def column(folder: Path, name: str) -> list[float]:
    return pd.read_csv(folder / "metrics.csv")[name].dropna().tolist()


@pytest.mark.parametrize("adversarial", [False, True], ids=["standard", "pgd-at"])
@pytest.mark.parametrize("gradient", [Phantom(3, 0.5), Exact(10, 1e-3)], ids=["phantom", "exact"])
def test_loss_falls(gradient: StateGradient, adversarial: bool, tmp_path: Path) -> None:
    objective = AdversarialTraining(ATTACK, gradient) if adversarial else Standard()
    fit(model(gradient), digits(), recipe(objective), tmp_path)
    losses = column(tmp_path, "loss")
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def weights(folder: Path, gradient: StateGradient | None = None, **settings: Any) -> dict[str, Tensor]:
    objective = AdversarialTraining(ATTACK, Phantom(3, 0.5))
    regularization = JacobianRegularization(weight=0.5, frequency=0.5, until=1.0)
    deq = model(gradient)
    settings = {"schedule": BRIEF, "regularization": regularization, "augmentation": RandomCropFlip(1)} | settings
    fit(deq, digits(), recipe(objective, **settings), folder)
    return deq.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_seed_decides_every_bit_of_the_weights(tmp_path: Path) -> None:
    first = weights(tmp_path / "1")
    torch.rand(3)
    assert same(first, weights(tmp_path / "2"))
    assert not same(first, weights(tmp_path / "3", schedule=replace(BRIEF, seed=1)))


def test_solver_is_as_long_after_a_regularised_run_as_before(tmp_path: Path) -> None:
    deq = model(ThroughSolver())
    before = deq.solver
    regularization = JacobianRegularization(weight=1.0, frequency=1.0, until=1.0, shorter=2, longer=0)
    fit(deq, digits(), recipe(schedule=BRIEF, regularization=regularization), tmp_path)
    assert deq.solver == before
    assert len(column(tmp_path, "jacobian")) == BRIEF.max_steps


@dataclass(frozen=True)
class Misled(Objective):
    """Clean images first, then images that belong to other labels."""

    def images(self, deq: DEQ, x: Tensor, y: Tensor, step: int, progress: float) -> Tensor:
        return x if progress < 0.7 else x.roll(1, 0)


@pytest.fixture(scope="module")
def misled(tmp_path_factory: pytest.TempPathFactory) -> tuple[MDEQ, Path]:
    folder = tmp_path_factory.mktemp("misled")
    deq = model()
    schedule = replace(SHORT, epochs=10)
    optimization = Optimization(2e-2, 1e-2, clip_norm=1.0)
    path = fit(deq, digits(224), recipe(Misled(), schedule, optimization=optimization), folder)
    assert path == folder / "model.safetensors"
    return deq, folder


def test_weights_on_disk_are_those_of_the_best_validation(misled: tuple[MDEQ, Path]) -> None:
    trained, folder = misled
    history = [entry["robust"] for entry in json.loads((folder / "training.json").read_text())["history"]]
    assert len(history) == 10
    assert max(history) > history[-1]
    deq = rd.load(folder / "model.safetensors")
    x, y = digits().require("development").head(24).tensors()
    adversaries = replace(ATTACK, seed=0)(Surrogate(deq, Phantom(3, 0.5)).eval(), x, y)
    with torch.no_grad():
        assert float(correct(deq(adversaries), y).float().mean()) == pytest.approx(max(history))
    assert same(deq.state_dict(), trained.state_dict())
    assert not trained.training


def test_run_leaves_weights_a_record_and_metrics(misled: tuple[MDEQ, Path]) -> None:
    _, folder = misled
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "training.json",
        "metrics.csv",
        "checkpoints",
    }
    record = json.loads((folder / "training.json").read_text())
    splits = digits(224)
    assert record["recipe"]["schedule"]["epochs"] == 10
    assert record["data"] == {
        "train": splits.require("train").source,
        "fingerprint": splits.require("train").fingerprint(),
        "development": splits.require("development").head(24).source,
    }
    assert read_card(folder / "model.safetensors").provenance == record
    metrics = pd.read_csv(folder / "metrics.csv")
    assert {"loss", "accuracy", "clean", "robust", "step", "epoch"} <= set(metrics.columns)
    assert column(folder, "robust") == pytest.approx([entry["robust"] for entry in record["history"]])


def test_early_state_is_chosen_on_the_development_split(misled: tuple[MDEQ, Path]) -> None:
    deq, folder = misled
    x, y = digits().require("development").head(24).tensors()
    expected = choose_early_state(deq, x, y, ATTACK, Phantom(3, 0.5), SHORT.batch_size)
    assert read_card(folder / "model.safetensors").early == expected


def test_second_run_replaces_the_record_of_the_first(misled: tuple[MDEQ, Path]) -> None:
    _, folder = misled
    fit(model(), digits(), recipe(schedule=BRIEF), folder)
    assert len(column(folder, "loss")) == BRIEF.max_steps
    assert len(json.loads((folder / "training.json").read_text())["history"]) == 1


def test_last_weights_of_a_run_cut_short_are_validated(tmp_path: Path) -> None:
    fit(model(), digits(), recipe(schedule=replace(SHORT, max_steps=6)), tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [4, 6]


def test_progress_rises_to_one(tmp_path: Path) -> None:
    shares: list[float] = []
    fit(model(), digits(), recipe(schedule=BRIEF), tmp_path, lambda share, what: shares.append(share))
    assert shares == [pytest.approx((step + 1) / 3) for step in range(3)]


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (lambda splits: replace(splits, train=None), "The data has no train split"),
        (lambda splits: replace(splits, development=None), "The data has no development split"),
    ],
)
def test_missing_split_is_refused(drop: Callable[[Splits], Splits], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        fit(model(), drop(digits()), recipe(schedule=BRIEF), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_training_that_diverges_is_an_error(tmp_path: Path) -> None:
    deq = model()
    with torch.no_grad():
        deq.head.classifier.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="the training diverged"):
        fit(deq, digits(), recipe(schedule=BRIEF), tmp_path)


@pytest.mark.parametrize("gradient", [Exact(10, 1e-3), ThroughSolver()], ids=["exact", "through the solver"])
def test_validation_climbs_the_gradient_it_is_given(gradient: Gradient, tmp_path: Path) -> None:
    deq = model()
    fit(deq, digits(), recipe(schedule=BRIEF, validation=Validation(ATTACK, gradient)), tmp_path)
    x, y = digits().require("development").head(24).tensors()
    adversaries = replace(ATTACK, seed=0)(Surrogate(deq, gradient).eval(), x, y)
    with torch.no_grad():
        robust = float(correct(deq(adversaries), y).float().mean())
    assert column(tmp_path, "robust") == [pytest.approx(robust)]


class Interrupted(Standard):
    def images(self, deq: DEQ, x: Tensor, y: Tensor, step: int, progress: float) -> Tensor:
        raise KeyboardInterrupt


def test_interruption_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(model(), digits(), recipe(Interrupted()), tmp_path)
