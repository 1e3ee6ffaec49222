"""A run that is going to ruin ends with a sentence, or goes back to where it was well."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import lightning
import pytest
import torch
from runs import ATTACK, CPU, FIXED, SHORT, assert_same, assert_same_run, digits, fit, model, recipe, record, weights
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.data import Splits
from robustdeq.training import (
    AdversarialTraining,
    Guard,
    Optimization,
    OverfittingWatch,
    Recipe,
    Standard,
    Training,
)
from robustdeq.training.checkpoints import SealedCheckpoints
from robustdeq.training.guards import DivergenceGuard
from robustdeq.training.objectives import Adversaries, Moment

pytestmark = pytest.mark.xdist_group("guards")


@dataclass(frozen=True)
class Poisoned(Standard):
    """Its images are not numbers from some step on."""

    since: int = 6

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        return Adversaries(x if moment.step < self.since else x * torch.nan)


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, dict):
        return [found for part in value.values() for found in tensors(part)]
    return [value] if isinstance(value, Tensor) else []


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_loss_that_is_not_finite_ends_the_run_and_nothing_of_it_is_kept(averaging: float, tmp_path: Path) -> None:
    schedule = replace(SHORT, checkpoint_every=1, validations=16)
    settings = recipe(objective=Poisoned(), schedule=schedule, guard=Guard(every=4), averaging=averaging)
    with pytest.raises(InputError, match="the training diverged: its loss was not finite at step 7 or shortly before"):
        fit(model(), digits(), settings, tmp_path, hardware=CPU)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step=5.ckpt", "step=6.ckpt"]
    for path in kept:
        found = SealedCheckpoints().load_checkpoint(path)
        held = tensors({name: found[name] for name in ("state_dict", "callbacks")})
        held += tensors(found["optimizer_states"][0]["state"])
        assert len(held) > 100
        assert all(tensor.isfinite().all() for tensor in held)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert not (tmp_path / "training.json").exists()


def test_loss_that_is_not_finite_is_noticed_within_the_interval(tmp_path: Path) -> None:
    schedule = replace(SHORT, checkpoint_every=100, validations=1)
    with pytest.raises(InputError, match="its loss was not finite at step 8 or"):
        settings = recipe(objective=Poisoned(since=4), schedule=schedule, guard=Guard(every=4))
        fit(model(), digits(), settings, tmp_path, hardware=CPU)


def test_weights_that_are_not_finite_end_the_run_even_where_no_loss_tells(tmp_path: Path) -> None:
    settings = recipe(optimization=Optimization(float("inf"), 0.0, algorithm="sgd"), guard=Guard(every=1))
    with pytest.raises(InputError, match="the training diverged: its weights were not finite at step 1 or"):
        fit(model(), digits(), settings, tmp_path, hardware=CPU)
    assert not any(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("diverged", "ends"), [(1.0, False), (2.0, True)])
def test_solver_that_diverges_on_more_than_its_share_ends_the_run(diverged: float, ends: bool) -> None:
    module = Training(model(), recipe())
    module.suspects = torch.tensor([0.0, diverged, 10.0])
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    guard = DivergenceGuard(Guard(diverged=0.1))
    if ends:
        with pytest.raises(InputError, match="the solver did on 20% of the samples before step 0; regularise"):
            guard.look(trainer, module)
    else:
        guard.look(trainer, module)
    assert module.suspects is None


@dataclass(frozen=True)
class Collapsing(AdversarialTraining):
    """From some step on, while its attack makes one step, the model calls every image a 1; until then, a 0."""

    since: int = 6
    seen: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    steps: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        self.seen[moment.step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.steps[moment.step] = self.attack.steps
        bias = model.get_parameter("head.classifier.bias")
        with torch.no_grad():
            bias[:2] = torch.tensor([50.0, 100.0 if moment.step >= self.since and self.attack.steps == 1 else 0.0])
        return super().adversaries(model, x, y, moment)


def zeros() -> Splits:
    """Digits of which the held-out ones are all zeros."""
    splits = digits()
    development = splits.require("development")
    return replace(splits, development=development.subset((development.labels == 0).nonzero()[:, 0]))


def collapsing() -> Recipe:
    watch = OverfittingWatch(every=2, attack=ATTACK, images=8)
    schedule = replace(SHORT, max_steps=12, checkpoint_every=3, validations=1)
    return recipe(objective=Collapsing(FIXED), schedule=schedule, overfitting=watch, averaging=0.5)


@pytest.fixture(scope="module")
def collapsed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Collapsing, list[logging.LogRecord]]:
    folder, settings = tmp_path_factory.mktemp("collapsed"), collapsing()
    log = logging.getLogger("robustdeq.training.guards")
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append
    log.addHandler(handler)
    fit(model(), zeros(), settings, folder, hardware=CPU)
    log.removeHandler(handler)
    assert isinstance(settings.objective, Collapsing)
    return folder, settings.objective, said


def test_model_that_overfits_to_its_attack_goes_back_and_meets_a_stronger_one(
    collapsed: tuple[Path, Collapsing, list[logging.LogRecord]],
) -> None:
    _, objective, said = collapsed
    (told,) = said
    assert "step 8: the model overfits to its attack" in told.getMessage()
    assert "fell from 100% to 0%" in told.getMessage()
    assert_same(objective.seen[8], objective.seen[6])
    assert any(not torch.equal(objective.seen[7][name], objective.seen[6][name]) for name in objective.seen[6])
    assert objective.steps == {step: 1 if step < 8 else 2 for step in range(12)}


@dataclass(frozen=True)
class Fading(Standard):
    """Clean images, of which the model forgets those that are held out."""

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        with torch.no_grad():
            model.get_parameter("head.classifier.bias")[:2] = torch.tensor([50.0, 100.0 if moment.step >= 7 else 0.0])
        return super().adversaries(model, x, y, moment)


def test_objective_without_an_attack_overfits_to_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(model(), zeros(), replace(collapsing(), objective=Fading()), tmp_path, hardware=CPU)
    assert "overfits" not in caplog.text


def test_averages_and_optimiser_go_back_too(collapsed: tuple[Path, Collapsing, list[logging.LogRecord]]) -> None:
    folder, objective, _ = collapsed
    found = SealedCheckpoints().load_checkpoint(folder / "checkpoints" / "step=9.ckpt")
    guard = found["callbacks"]["OverfittingGuard"]
    assert guard["reverted"] == [8]
    assert_same(guard["good"]["model"], objective.seen[6])
    assert all(state["step"] == 7 for state in found["optimizer_states"][0]["state"].values())
    for name, tensor in objective.seen[9].items():
        if tensor.is_floating_point():
            expected = torch.lerp(objective.seen[8][name].double(), tensor.double(), 0.5)
            assert torch.allclose(found["state_dict"][f"model.{name}"].double(), expected, atol=1e-6)


def test_what_the_guard_has_done_survives_an_interruption(
    collapsed: tuple[Path, Collapsing, list[logging.LogRecord]], tmp_path: Path
) -> None:
    def stop(share: float, what: str) -> None:
        if share > 10 / 12:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(model(), zeros(), collapsing(), tmp_path, stop, hardware=CPU)
    settings = collapsing()
    fit(model(), zeros(), settings, tmp_path, resume=True, hardware=CPU)
    assert isinstance(settings.objective, Collapsing)
    assert settings.objective.steps == {9: 2, 10: 2, 11: 2}
    assert_same_run(tmp_path, collapsed[0])


def test_run_that_does_not_improve_is_stopped_and_keeps_the_earliest_of_its_best(tmp_path: Path) -> None:
    schedule = replace(SHORT, validations=8, patience=2)
    optimization = Optimization(1e-20, 0.0, algorithm="sgd")
    fit(model(), digits(), recipe(schedule=schedule, optimization=optimization), tmp_path, hardware=CPU)
    found = record(tmp_path)
    assert [entry["step"] for entry in found["history"]] == [2, 4, 6]
    assert found["best"]["step"] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guard(every=0), "every is 0; give how many steps pass"),
        (lambda: Guard(diverged=0.0), r"diverged is 0\.0; give a share"),
        (lambda: OverfittingWatch(every=-1), "every is -1"),
        (lambda: OverfittingWatch(images=0), "images 0"),
        (lambda: OverfittingWatch(drop=0.0), r"drop is 0\.0; give a difference"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
