"""A training run: from data to the best weights on disk, the same every time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    ATTACK,
    BRIEF,
    CPU,
    SHORT,
    assert_same,
    column,
    digits,
    everything,
    fit,
    model,
    recipe,
    record,
    residual,
    weights,
)
from torch import Tensor, nn
from typing_extensions import override

import robustdeq as rd
from robustdeq.attacks.losses import correct
from robustdeq.base.errors import InputError
from robustdeq.data import Images, Splits
from robustdeq.evaluation import choose_early_state
from robustdeq.gradients import Exact, Gradient, Phantom, StateGradient, Surrogate, ThroughSolver
from robustdeq.models import DEQ, MDEQ
from robustdeq.training import AdversarialTraining, Optimization, Standard, Validation, fitting
from robustdeq.training.objectives import Adversaries, Moment, Reading
from robustdeq.zoo.registry import read_card

pytestmark = pytest.mark.xdist_group("fit")


@pytest.mark.parametrize("gradient", [Phantom(2, 0.5), Exact(10, 1e-3), None], ids=["phantom", "exact", "explicit"])
@pytest.mark.parametrize("adversarial", [False, True], ids=["standard", "pgd-at"])
def test_loss_falls(gradient: StateGradient | None, adversarial: bool, tmp_path: Path) -> None:
    network: nn.Module = residual()
    if gradient is not None:
        network = model(4)
        network.gradient = gradient
    objective = AdversarialTraining(ATTACK) if adversarial else Standard()
    schedule = replace(SHORT, validations=1)
    fit(network, digits(), recipe(objective=objective, schedule=schedule), tmp_path, hardware=CPU)
    losses = column(tmp_path, "loss")
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.98 * sum(losses[:4])
    assert bool(column(tmp_path, "solver_steps")) == (gradient is not None)
    assert_same(rd.load(tmp_path / "model.safetensors").state_dict(), network.state_dict())


def test_seed_decides_every_bit_of_the_weights(tmp_path: Path) -> None:
    for number, seed in enumerate((0, 0, 1)):
        torch.rand(number)
        fit(model(dropout=0.2), digits(), everything(max_steps=3, seed=seed), tmp_path / str(number), hardware=CPU)
    first, same, other = (weights(tmp_path / str(number)) for number in range(3))
    assert_same(same, first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


class InParts(Standard):
    """Batch normalisation by the running statistics, so that a batch is the sum of its parts."""

    @override
    def read(self, model: nn.Module, x: Tensor, y: Tensor, found: Adversaries, moment: Moment) -> Reading:
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return super().read(model, x, y, found, moment)


@pytest.mark.parametrize("images", [128, 120])
def test_batch_in_parts_is_the_batch_in_one(images: int, tmp_path: Path) -> None:
    for accumulate in (1, 4):
        schedule = replace(SHORT, max_steps=2 if images == 120 else 8, accumulate=accumulate)
        optimization = Optimization(1e-2, 1e-3, algorithm="sgd", clip_norm=1.0)
        settings = recipe(objective=InParts(), schedule=schedule, optimization=optimization)
        data = digits(images - images % 32 if accumulate == 1 else images)
        fit(residual(), data, settings, tmp_path / str(accumulate), hardware=CPU)
    whole, parts = tmp_path / "1", tmp_path / "4"
    assert column(parts, "loss") == pytest.approx(column(whole, "loss"), abs=1e-5)
    expected = weights(whole)
    assert all(torch.allclose(tensor, expected[name], atol=1e-5) for name, tensor in weights(parts).items())


@dataclass(frozen=True)
class Misled(Standard):
    """Clean images first, then images that belong to other labels."""

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        return Adversaries(x if moment.progress < 0.7 else x.roll(1, 0))


class MisledToResist(Misled):
    """The same, and the most robust weights count as the best."""

    aim = "robust"


WEAK = replace(ATTACK, eps=0.02, step_size=0.02)


@pytest.fixture(scope="module", params=[MisledToResist, Misled], ids=lambda kind: kind.aim)
def misled(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[MDEQ, Path]:
    folder = tmp_path_factory.mktemp("misled")
    deq = model(4)
    schedule = replace(SHORT, epochs=10, validations=10)
    optimization = Optimization(2e-2, 1e-2, clip_norm=1.0)
    validation = Validation(WEAK, Phantom(2, 0.5))
    settings = recipe(objective=request.param(), schedule=schedule, optimization=optimization, validation=validation)
    path = fit(deq, digits(224), settings, folder, hardware=CPU)
    assert path == folder / "model.safetensors"
    return deq, folder


def test_weights_on_disk_are_those_of_the_best_validation(
    misled: tuple[MDEQ, Path], request: pytest.FixtureRequest
) -> None:
    trained, folder = misled
    aim = request.node.callspec.params["misled"].aim
    history = [entry[aim] for entry in record(folder)["history"]]
    assert len(history) == 10
    assert max(history) > history[-1]
    deq = rd.load(folder / "model.safetensors")
    assert isinstance(deq, DEQ)
    x, y = digits().require("development").head(24).tensors()
    if aim == "robust":
        x = replace(WEAK, seed=0)(Surrogate(deq, Phantom(2, 0.5)).eval(), x, y)
    with torch.no_grad():
        assert float(correct(deq(x), y).float().mean()) == pytest.approx(max(history))
    assert_same(trained.state_dict(), deq.state_dict())
    assert not trained.training


def test_run_leaves_weights_a_record_and_metrics(misled: tuple[MDEQ, Path]) -> None:
    _, folder = misled
    left = {"model.safetensors", "model.md", "run.json", "training.json", "metrics.csv", "checkpoints", "tensorboard"}
    assert {path.name for path in folder.iterdir()} == left
    found = record(folder)
    splits = digits(224)
    assert found["recipe"]["schedule"]["epochs"] == 10
    assert found["data"] == {
        "train": splits.require("train").source,
        "fingerprint": splits.require("train").fingerprint(),
        "development": splits.require("development").head(24).source,
        "development_fingerprint": splits.require("development").head(24).fingerprint(),
    }
    assert found["best"] in [entry | {"images": 24} for entry in found["history"]]
    sealed = {name: value for name, value in found.items() if name not in ("files", "seal")}
    assert read_card(folder / "model.safetensors").provenance == sealed
    assert column(folder, "robust") == pytest.approx([entry["robust"] for entry in found["history"]], rel=1e-5)


def test_early_state_is_chosen_on_the_development_split(misled: tuple[MDEQ, Path]) -> None:
    deq, folder = misled
    x, y = digits().require("development").head(24).tensors()
    expected = choose_early_state(deq, x, y, WEAK, Phantom(2, 0.5), SHORT.batch_size)
    assert read_card(folder / "model.safetensors").early == expected


def mislabelled(splits: Splits) -> Splits:
    train = splits.require("train")
    labels = train.labels.clone()
    labels[3] = 10
    return replace(splits, train=replace(train, labels=labels, classes=(*train.classes, "ten")))


def cropped(splits: Splits) -> Splits:
    def crop(images: Images) -> Images:
        return replace(images, pixels=images.pixels[:, :, :6, :6])

    return replace(splits, train=crop(splits.require("train")), development=crop(splits.require("development")))


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (lambda splits: replace(splits, train=None), {}, "The data has no train split"),
        (lambda splits: replace(splits, development=None), {}, "The data has no development split"),
        (
            mislabelled,
            {},
            r"the model was made for images of shape \(1, 8, 8\) in 10 classes, and .* has \(1, 8, 8\) in 11; give",
        ),
        (cropped, {}, r"was made for images of shape \(1, 8, 8\) in 10 classes, and .* has \(1, 6, 6\) in 10; give"),
        (lambda splits: splits, {"batch_size": 129}, "batch_size is 129, and .* has 128 images; give a smaller one"),
        (lambda splits: splits, {"accumulate": 5}, "a batch of 32 images cannot be shared by 1 processes in 5 parts"),
        (lambda splits: splits, {"batch_size": 1, "accumulate": 2}, "make it a multiple of 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    spoil: Callable[[Splits], Splits], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        fit(model(), spoil(digits()), recipe(schedule=replace(BRIEF, **settings)), tmp_path / "run", hardware=CPU)
    assert list(tmp_path.iterdir()) == []


def test_model_that_could_not_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a Linear cannot be rebuilt from a file; give the factory that makes it"):
        fit(nn.Linear(64, 10), digits(), recipe(), tmp_path / "run", hardware=CPU)
    assert list(tmp_path.iterdir()) == []


def test_model_that_would_be_loaded_as_another_is_refused(tmp_path: Path) -> None:
    deq = model()
    deq.head.final[2] = nn.Tanh()
    with pytest.raises(InputError, match=r"head\.final\.2 is not what the settings of this MDEQ make"):
        fit(deq, digits(), recipe(), tmp_path / "run", hardware=CPU)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.json", "run holds another run; choose another folder, or pass resume=True"),
        ("metrics.csv", r"metrics\.csv exists already; choose another folder, or pass overwrite=True"),
        ("model.md", r"model\.md exists already"),
        ("checkpoints/step=3.ckpt", r"step=3\.ckpt exists already"),
    ],
)
def test_what_lies_in_a_folder_is_replaced_only_where_that_is_asked_for(
    name: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(InputError, match=message):
        fit(model(), digits(), recipe(schedule=BRIEF), tmp_path / "run", hardware=CPU)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


def test_run_that_is_asked_to_replaces_another(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    for _ in range(2):
        fit(model(), digits(), recipe(schedule=BRIEF), tmp_path, hardware=CPU, overwrite=True)
    assert len(column(tmp_path, "loss")) == 3


@pytest.mark.parametrize("averaging", [-0.1, 1.0])
def test_average_that_cannot_be_is_refused_before_anything_is_written(averaging: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the decay of the average"):
        fit(model(), digits(), recipe(averaging=averaging), tmp_path / "run", hardware=CPU)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("own", "given"), [(Phantom(2, 0.5), ThroughSolver()), (Exact(10, 1e-3), None)], ids=["given", "own"]
)
def test_validation_climbs_the_gradient_it_is_given_or_else_that_of_the_weights(
    own: StateGradient, given: Gradient | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deq, chosen = model().with_settings(gradient=own), []
    monkeypatch.setattr(fitting, "choose_early_state", lambda *settings: chosen.append(settings) or 1)
    fit(deq, digits(), recipe(schedule=BRIEF, validation=Validation(ATTACK, given)), tmp_path, hardware=CPU)
    x, y = digits().require("development").head(24).tensors()
    gradient = own if given is None else given
    assert [settings[3:5] for settings in chosen] == [(ATTACK, gradient)]
    adversaries = replace(ATTACK, seed=0)(Surrogate(deq, gradient).eval(), x, y)
    with torch.no_grad():
        robust = float(correct(deq(adversaries), y).float().mean())
    assert column(tmp_path, "robust") == [pytest.approx(robust)]
