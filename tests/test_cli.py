"""The command line: what cannot be used ends in one sentence and status 2, and leaves nothing behind."""

import errno
import inspect
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
import torch
from docstring_parser import parse as parse_docstring
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import robustdeq as rd
from robustdeq import cli
from robustdeq.attacks import PGD
from robustdeq.cli.commands import COMMANDS, command
from robustdeq.cli.parser import parse
from robustdeq.data.splits import Splits
from robustdeq.evaluation import Store
from robustdeq.evaluation.measure import plan
from robustdeq.evaluation.store import FILE
from robustdeq.recipes import recipe_names
from robustdeq.training import AdversarialTraining, Recipe
from robustdeq.training.objectives import Adversaries, Moment
from robustdeq.zoo.registry import read_card
from robustdeq.zoo.resnet import ResNet, ResNetConfig, WideResNet

LEFT = ["exhibits.safetensors", "manifest.json", "results.csv", "results.json", "results.png", "results.sqlite"]
QUICK = ["--attack.steps", "1", "--estimators.steps", "[1]", "--estimators.dampings", "[1.0]"]
TRAIN = ["train", "--model", "nano", "--data", "digits", "--schedule.max_steps", "3", "--schedule.batch_size", "16"]
TRAIN += ["--schedule.validation_images", "16", "--objective.attack.steps", "1", "--validation.attack.steps", "1"]
TRAIN += ["--schedule.log_every", "1"]


def small(in_channels: int = 1) -> rd.models.MDEQ:
    config = replace(rd.models.PRESETS["nano"], max_steps=3)
    return rd.models.mdeq(config, in_channels=in_channels)


def explicit(in_channels: int = 1) -> ResNet:
    return ResNet(ResNetConfig((1, 1), width=2), 10, in_channels)


class Running:
    """What opens a file for writing when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return open, ("it-ran", "w")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, checkpoints, results, and files that are damaged or do not fit."""
    path = tmp_path_factory.mktemp("template")
    write_checkpoints(path)
    write_evaluations(path)
    rd.save(small(), path / "model.safetensors", early=2)
    rd.save(small(3), path / "colour.safetensors", early=2)
    rd.save(small(), path / "undecided.safetensors")
    (path / "broken.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:999])
    (path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    (path / "occupied").write_text("a file")
    (path / "misspelt.yaml").write_text("optimization: {learningrate: 0.1}")
    (path / "broken.yaml").write_text("optimization: [")
    (path / "results.json").write_text("{}")
    write_images(path / "eleven" / "test.parquet", 8, 11)
    write_images(path / "large" / "test.parquet", 16, 10)
    write_images(path / "alone" / "test.parquet", 8, 10)
    return path


def write_checkpoints(path: Path) -> None:
    weights = explicit().state_dict()
    checkpoints = {
        "resnet": weights,
        "missing": {name: tensor for name, tensor in weights.items() if name != "bn1.weight"},
        "unknown": weights | {"bn9.weight": torch.ones(2)},
        "misshapen": weights | {"bn1.weight": torch.ones(3)},
        "infinite": weights | {"bn1.weight": torch.full((2,), torch.inf)},
        "empty": {},
    }
    for name, content in checkpoints.items():
        torch.save(content, path / f"{name}.pth.tar")
    torch.save({"state_dict": Running()}, path / "running.pth.tar")
    (path / "plain.pth.tar").write_bytes(pickle.dumps(Running(), protocol=2))
    (path / "garbage.pth.tar").write_bytes(b"no checkpoint at all")
    rd.save(explicit(), path / "explicit.safetensors")
    rd.save(explicit(3), path / "explicit-colour.safetensors")


def write_evaluations(path: Path) -> None:
    deq = small().eval()
    rd.save(deq, path / "measured.safetensors", early=2)
    images = rd.data.load("digits").require("test").head(3).tensors()
    attack, estimators = PGD(steps=1), rd.evaluation.Estimators(steps=(1,), dampings=(1.0,))
    job = plan(deq, *images, rd.evaluation.Paper(attack, estimators), early=2, batch_size=64)
    with Store.create(path / "begun" / FILE, job.manifest()) as store:
        job.run(store, batches=())
    shutil.copytree(path / "begun", path / "finished")
    with Store.create(path / "finished" / FILE, job.manifest()) as store:
        job.run(store)
    shutil.copytree(path / "finished", path / "damaged")
    content = (path / "damaged" / FILE).read_bytes()
    (path / "damaged" / FILE).write_bytes(content[: len(content) // 2])
    (path / "empty").mkdir()
    (path / "empty" / FILE).write_bytes(b"")


@pytest.fixture(autouse=True)
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(template, tmp_path, dirs_exist_ok=True))


def write_images(path: Path, side: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for label in range(classes):
        encoded = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(encoded, "png")
        rows.append({"img": {"bytes": encoded.getvalue()}, "label": label})
    path.parent.mkdir()
    pd.DataFrame(rows).to_parquet(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        str(path): b"" for path in folder.rglob("*") if path.is_dir()
    }


def evaluate(*options: str, weights: str = "model.safetensors", data: str = "digits", n: str = "3") -> list[str]:
    return ["evaluate", weights, "--data", data, "--n", n, "--output", "out", *QUICK, *options]


def again(*options: str) -> list[str]:
    return evaluate("--output", "finished", *options, weights="measured.safetensors")


def test_fixture_data_and_models_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert rd.data.load("eleven/test.parquet").require("test").pixels.shape == (11, 1, 8, 8)
    cli.main(evaluate())
    assert "worst case" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([*TRAIN, "--model", "huge"], "'huge'"),
        ([*TRAIN, "--data", "nothing"], "'nothing'"),
        ([*TRAIN, "--data", "broken.parquet"], "broken.parquet"),
        ([*TRAIN, "--data", "large/test.parquet"], "no train split"),
        ([*TRAIN, "--model", "small", "--data", "nothing"], "'nothing'"),
        ([*TRAIN, "--output", "occupied"], "occupied"),
        ([*TRAIN, "--objective.attack.eps", "-0.1"], "eps is -0.1"),
        ([*TRAIN, "--objective.attack.norm", "L7"], "'L7'"),
        ([*TRAIN, "--objective.attack.steps", "0"], "steps is 0"),
        ([*TRAIN, "--gradient.damping", "0"], "damping is 0"),
        ([*TRAIN, "--gradient", "Exact", "--gradient.max_steps", "0"], "max_steps is 0"),
        ([*TRAIN, "--gradient", "Exact", "--gradient.tol", "-1"], "tol is -1"),
        ([*TRAIN, "--architecture.max_steps", "0"], "max_steps is 0"),
        ([*TRAIN, "--architecture.max_step", "3"], "did you mean max_steps?"),
        ([*TRAIN, "--optimization.learningrate", "1"], "did you mean optimization.learning_rate?"),
        ([*TRAIN, "--objective", "TRADE"], "there is no objective 'TRADE'; did you mean TRADES?"),
        ([*TRAIN, "--objective", "zzz"], "there is no objective 'zzz'; choose one of Standard,"),
        ([*TRAIN, "--objective", "TRADES", "--objective.bet", "3"], "did you mean beta?"),
        (["train", "misspelt.yaml"], "did you mean optimization.learning_rate?"),
        (["train", "broken.yaml"], "broken.yaml is no YAML"),
        (
            ["reproduce", "fig2b", "--weights.unroled", "w"],
            "there is no way of training 'unroled'; did you mean unrolled?",
        ),
        (["train", "smal-fast"], "did you mean small-fast?"),
        (["train", "small-fast", "--model", "nano", "--data", "colours"], "'colours'"),
        ([*TRAIN, "--devices", "3"], "a batch of 16 images cannot be shared by 3 processes"),
        ([*TRAIN, "--strategy", "fsdp"], "needs CUDA"),
        ([*TRAIN, "--execution.precision", "half"], "'half'"),
        ([*TRAIN, "--averaging", "1"], "averaging is 1"),
        ([*TRAIN, "--optimization.learning_rate", "0"], "learning_rate is 0"),
        ([*TRAIN, "--regularization.jacobian.frequency", "2"], "frequency is 2"),
        ([*TRAIN, "--schedule.batch_size", "0"], "batch_size"),
        ([*TRAIN, "--schedule.batch_size", "100000"], "100000"),
        ([*TRAIN, "--schedule.validation_images", "0"], "0"),
        ([*TRAIN, "--schedule.seed", "-1"], "seed"),
        ([*TRAIN, "--augmentation.padding", "-1"], "-1"),
        ([*TRAIN, "--objective", "best"], "best"),
        ([*TRAIN, "--gradient", "best"], "best"),
        ([*TRAIN, "--bogus", "1"], "--bogus"),
        ([*TRAIN, "--resume", "perhaps"], "perhaps"),
        (["bogus"], "there is no command 'bogus'; choose one of demo, train"),
        (["evluate", "model.safetensors"], "did you mean evaluate?"),
        (["evaluate"], "network"),
        (evaluate(weights="missing.safetensors"), "missing.safetensors"),
        (evaluate(weights="broken.safetensors"), "broken.safetensors"),
        (evaluate(weights="broken.parquet"), "broken.parquet"),
        (evaluate(data="nothing"), "'nothing'"),
        (evaluate(data="broken.parquet"), "broken.parquet"),
        (evaluate(data="eleven/test.parquet", n="11"), "eleven/test.parquet"),
        (evaluate(data="large/test.parquet"), "large/test.parquet"),
        (evaluate(weights="colour.safetensors"), "digits"),
        (evaluate(weights="undecided.safetensors", data="alone/test.parquet"), "--early"),
        (evaluate("--early", "0"), "state 0"),
        (evaluate("--early", "5"), "state 5"),
        (evaluate("--protocol", "strictest"), "'strictest'"),
        (evaluate("--output", "results.json"), "results.json"),
        (evaluate("--output", "occupied/out"), "occupied"),
        (evaluate("--batch_size", "0"), "batch_size"),
        (evaluate("--device", "abacus"), "abacus"),
        (evaluate("--estimators.steps", "[0]"), "steps is 0"),
        (evaluate("--estimators.steps", "[]"), "steps"),
        (evaluate("--attack.eps", "-1"), "eps is -1"),
        (evaluate("--attack.eps", "wide"), "wide"),
        (evaluate("--bogus", "1"), "--bogus"),
        (evaluate(n="0"), "0 images"),
        (evaluate("--devices", "0"), "devices is 0"),
        (evaluate("--nodes", "0"), "nodes is 0"),
        (evaluate("--device", "cuda", "--devices", "99"), "device"),
        (evaluate("--strict.queries", "0"), "queries is 0"),
        (evaluate("--protocol", "strict", "--transfer", "missing.safetensors"), "missing.safetensors"),
        (evaluate("--protocol", "strict", "--transfer", "explicit-colour.safetensors"), "(3, any, any)"),
        (evaluate(weights="explicit-colour.safetensors"), "(3, any, any)"),
        (evaluate("--transfer", "explicit.safetensors"), "--transfer is of no use to the protocol paper"),
        (evaluate("--protocol", "strict", "--transfer", "[explicit.safetensors, explicit.safetensors]"), "are both"),
        (evaluate("--strict.queries", "5", weights="explicit.safetensors"), "--strict is of no use to the protocol"),
        (evaluate("--reduction.steps", "3"), "--reduction is of no use to the protocol paper"),
        (evaluate("--protocol", "strict", "--strict.attack.eps", "0.1"), "not within --strict"),
        (evaluate("--protocol", "entropy", "--early", "2"), "--early is of no use to the protocol entropy"),
        (evaluate("--protocol", "strict", weights="explicit.safetensors"), "leave --protocol out"),
        (evaluate("--early", "2", weights="explicit.safetensors"), "--early is of no use to the protocol network"),
        (evaluate(weights="explicit.safetensors"), "--estimators is of no use to the protocol network"),
        (again("--attack.steps", "2"), "other settings (attack: "),
        (again("--early", "3"), "other settings (early: 2, now 3)"),
        (again("--estimators.steps", "[2]"), "other settings (estimators: "),
        (again("--batch_size", "2"), "other settings (batch_size: 64, now 2)"),
        (again("--n", "4"), "on other images"),
        (evaluate("--output", "finished"), "of another model"),
        (evaluate("--output", "damaged", weights="measured.safetensors"), "are damaged"),
        (again("--overwrite", "true", "--batch_size", "0"), "batch_size is 0"),
        (again("--overwrite", "true", "--early", "9"), "state 9"),
        (["export", "nothing", "--to", "table.csv"], "no results at nothing"),
        (["export", "begun", "--to", "table.csv"], "not finished"),
        (["export", "empty", "--to", "table.csv"], "holds no results yet"),
        (["export", "damaged", "--to", "table.csv"], "are damaged"),
        (["export", "finished", "--to", "table.xlsx"], "table.xlsx"),
        (["export", "finished", "--to", "worst.pt"], "evaluate with --save_adversaries"),
        (["export", "finished", "--to", "occupied/table.csv"], "occupied"),
        (["report"], "runs"),
        (["report", "nothing"], "nothing is no folder"),
        (["report", "large"], "large holds no results"),
        (["report", "begun"], "not finished"),
        (["report", "finished", "damaged"], "are damaged"),
        (["report", "finished", "-o", "report.pdf"], "ends in .html or .md"),
        (["report", "finished", "-o", "report.md"], "the folders hold no reproductions"),
        (["report", "finished", "-o", "results.json"], "results.json exists and is no report of ours"),
        (["report", "finished", "-o", "occupied/report.html"], "occupied is no folder"),
        (["bench", "--document", "results.json"], "results.json exists and is no report of ours"),
        (["convert", "nothing.pth.tar"], "nothing.pth.tar"),
        (["convert", "garbage.pth.tar"], "garbage.pth.tar"),
        (["convert", "running.pth.tar"], "could run code"),
        (["convert", "plain.pth.tar"], "plain.pth.tar"),
        (["convert", "missing.pth.tar"], "missing: bn1.weight"),
        (["convert", "unknown.pth.tar"], "unknown: bn9.weight"),
        (["convert", "misshapen.pth.tar"], "bn1.weight (3,) instead of (2,)"),
        (["convert", "infinite.pth.tar"], "not finite, in bn1.weight"),
        (["convert", "empty.pth.tar"], "no state dict"),
        (["convert", "finished/results.sqlite", "--output", "new.safetensors"], "results.sqlite"),
        (["convert", "resnet.pth.tar", "--output", "model.safetensors"], "model.safetensors exists already"),
        (["convert", "resnet.pth.tar", "--output", "occupied/new.safetensors"], "occupied"),
        (["convert", "resnet.pth.tar", "--max_steps", "4"], "does not hold a DEQ"),
        (["convert", "explicit.safetensors"], "choose another --output"),
        (evaluate("--config", "missing.yaml"), "missing.yaml"),
        (["demo", "--n", "0"], "0 images"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_input_that_cannot_be_used_ends_in_one_sentence(
    arguments: list[str], culprit: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert contents(folder) == before
    error = capsys.readouterr().err
    assert culprit in error
    assert error.startswith("robustdeq: ")
    assert error.count("\n") == 1


def test_second_interruption_does_not_silence_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    def again(sentence: str) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr("robustdeq.cli.evaluate.measure", interrupt)
    monkeypatch.setattr("robustdeq.cli.commands.leave", again)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        cli.main(evaluate())
    assert end.value.code == 130
    assert capsys.readouterr().err == "robustdeq: interrupted; the same command goes on from what is finished.\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["here", b"here"])
def test_file_that_cannot_be_written_is_named(
    name: str | bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "full", name)

    monkeypatch.setattr("robustdeq.cli.evaluate.measure", fail)
    with pytest.raises(SystemExit) as end:
        cli.main(evaluate())
    assert end.value.code == 2
    assert capsys.readouterr().err == "robustdeq: here cannot be read or written (full).\n"


def test_interruption_ends_with_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustdeq.cli.evaluate.measure", interrupt)
    with pytest.raises(SystemExit) as end:
        cli.main(evaluate())
    assert end.value.code == 130
    assert "robustdeq: interrupted; the same command goes on from what is finished.\n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(evaluate("--overwrite"))
    assert "the same command without --overwrite goes on" in capsys.readouterr().err
    monkeypatch.setattr("robustdeq.cli.models.packaged_names", interrupt)
    with pytest.raises(SystemExit):
        cli.main(["models"])
    assert capsys.readouterr().err == "robustdeq: interrupted.\n"


def test_interrupted_training_says_where_it_stands_and_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    training = [*TRAIN, "--output", "run", "--schedule.validations", "1"]
    usual = AdversarialTraining.adversaries

    def interrupt(self: AdversarialTraining, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        if moment.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(self, model, x, y, moment)

    usual_signal = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as end:
            patched.setattr(AdversarialTraining, "adversaries", interrupt)
            cli.main([*training, "--resume"])
    finally:
        signal.signal(signal.SIGINT, usual_signal)
    assert end.value.code == 130
    said = "robustdeq: interrupted at step 2 of 3; the same command goes on from its newest checkpoint.\n"
    assert capsys.readouterr().err.endswith(said)
    assert "nothing to go on from in run; starting anew." in caplog.messages
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(training)
    assert "run.json exists already; pass --resume to go on with that run, or --overwrite" in capsys.readouterr().err
    cli.main([*training, "--resume"])
    assert "going on from step 2 of 3." in caplog.messages


def test_models_lists_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["models"])
    shown = capsys.readouterr().out
    for name in rd.models.PRESETS:
        assert name in shown
    assert "11,097,438" in shown
    assert "48,792,098" in shown


@pytest.mark.parametrize(
    "choice",
    [[], ["--gradient", "Exact", "--gradient.max_steps", "5"], ["--objective", "TRADES", "--objective.beta", "3"]],
    ids=["default", "exact gradient", "TRADES"],
)
def test_trained_weights_can_be_evaluated(choice: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*TRAIN, *choice, "--output", "run"])
    assert "The best weights are in run/model.safetensors" in capsys.readouterr().out
    assert len(pd.read_csv("run/metrics.csv")["loss"].dropna()) == 3
    card = read_card("run/model.safetensors")
    assert card.early in range(1, 9)
    cli.main(["evaluate", "run/model.safetensors", "--data", "digits", "--n", "4", "--output", "table", *QUICK])
    shown = capsys.readouterr().out
    assert "worst case" in shown
    assert sorted(path.name for path in (folder / "table").iterdir()) == LEFT
    saved = json.loads(Path("table/results.json").read_text())
    assert saved["samples"] == 4
    assert saved["settings"]["early"] == card.early
    assert saved["settings"]["data"].startswith("digits")
    assert saved["defenses"][0]["name"] == "final"


LEFT_BY_TRAINING = {"model.safetensors", "model.md", "training.json", "training.png", "run.json", "metrics.csv"}
RECIPE_ON_DIGITS = ["train", "small-fast", *TRAIN[1:], "--schedule.max_steps", "2", "--objective.attack.eps", "0.2"]


def test_recipe_is_a_configuration_that_options_override(folder: Path) -> None:
    cli.main([*RECIPE_ON_DIGITS, "--augmentation.padding", "1", "--output", "run"])
    assert {path.name for path in (folder / "run").iterdir() if path.is_file()} == LEFT_BY_TRAINING
    run = json.loads(Path("run/run.json").read_text())
    assert run["model"]["config"]["tail_steps"] == 2
    assert "eps=0.2" in run["recipe"]["objective"]
    assert "step_size=0.0392" in run["recipe"]["objective"]
    assert run["recipe"]["schedule"]["max_steps"] == 2
    assert run["recipe"]["averaging"] == 0.998
    assert "Phantom(steps=2" in run["gradient"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[torch.nn.Module, Recipe]] = []
    digits, side = rd.data.load("digits"), 32 if name.startswith(("conv-small", "monotone-small")) else 8
    parts = (digits.require(role) for role in ("train", "development", "test"))
    enlarged = [replace(part, pixels=F.pad(part.pixels, (0, side - 8, 0, side - 8))) for part in parts]
    monkeypatch.setattr("robustdeq.cli.train.load_data", lambda _: Splits(*enlarged))
    monkeypatch.setattr("robustdeq.cli.train.save_training_figure", lambda *_: None)
    monkeypatch.setattr(
        "robustdeq.cli.train.fit", lambda model, splits, recipe, folder, *_: begun.append((model, recipe)) or folder
    )
    with torch.device("meta"):
        cli.main(["train", name])
    ((model, recipe),) = begun
    kinds = dict.fromkeys(rd.models.PRESETS, rd.models.MDEQ)
    kinds |= {"conv": rd.models.ConvDEQ, "monotone": rd.models.MonotoneNetwork}
    assert isinstance(model, kinds.get(name.split("-")[0], (ResNet, WideResNet)))
    steps = recipe.schedule.max_steps or recipe.schedule.epochs * 50_000 // recipe.schedule.batch_size
    assert steps > recipe.pretraining.steps


def test_resumed_run_that_is_finished_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*TRAIN, "--output", "run"])
    before = contents(Path("run"))
    capsys.readouterr()
    cli.main([*TRAIN, "--resume", "--output", "run"])
    assert {name: text for name, text in contents(Path("run")).items() if not name.endswith(".png")} == {
        name: text for name, text in before.items() if not name.endswith(".png")
    }


@pytest.mark.parametrize(
    ("options", "culprit"), [([], "exists already"), (["--resume", "true", "--schedule.seed", "3"], "another recipe")]
)
def test_run_of_before_is_not_touched_by_another(
    options: list[str], culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([*TRAIN, "--output", "run"])
    before = contents(Path("run"))
    with pytest.raises(SystemExit):
        cli.main([*TRAIN, "--output", "run", *options])
    assert culprit in capsys.readouterr().err
    assert contents(Path("run")) == before


@pytest.mark.parametrize("name", ["metrics.csv", "training.png"])
def test_training_replaces_no_file_of_others_unless_told_to(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("mine")
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(SystemExit):
        cli.main([*TRAIN, "--output", "mine"])
    assert f"{name} exists already; choose another --output, or pass --overwrite." in capsys.readouterr().err
    assert contents(folder) == {f"mine/{name}": b"mine"}
    cli.main([*TRAIN, "--output", "mine", "--overwrite"])
    assert (folder / name).read_bytes() != b"mine"


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["recipes"])
    shown = capsys.readouterr().out
    for name in recipe_names():
        assert name in shown


def test_outputs_have_default_places() -> None:
    cli.main(TRAIN)
    assert Path("runs/nano-digits/model.safetensors").is_file()
    cli.main(["evaluate", "runs/nano-digits/model.safetensors", "--data", "digits", "--n", "4", *QUICK])
    assert Path("runs/evaluate/nano-digits-digits-paper/results.json").is_file()


def test_same_command_shows_the_same_table_again_from_what_it_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(evaluate())
    shown, left = capsys.readouterr().out, contents(Path("out"))
    Path("out/results.csv").unlink()
    monkeypatch.setattr(PGD, "run", None)
    cli.main(evaluate())
    assert capsys.readouterr().out == shown
    assert {name: content for name, content in contents(Path("out")).items() if name != "out/results.png"} == {
        name: content for name, content in left.items() if name != "out/results.png"
    }


def test_an_evaluation_replaces_no_results_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("results.json", "results.csv", "results.png"):
        folder = Path(name.replace(".", "-"))
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(SystemExit):
            cli.main(evaluate("--output", str(folder)))
        assert f"{name} exists already" in capsys.readouterr().err
        assert contents(folder) == {f"{folder}/{name}": b"mine"}


def test_overwriting_deletes_what_an_evaluation_leaves_and_nothing_else() -> None:
    cli.main(again("--save_adversaries"))
    mine = ["notes.txt", "results.txt", "results-of-mine.sqlite", "adversaries/notes.txt"]
    for name in mine:
        Path("finished", name).write_text("mine")
    Path("finished/results-1.sqlite").write_bytes(b"left behind")
    cli.main(again("--overwrite", "true", "--attack.eps", "0.5", "--n", "4"))
    saved = json.loads(Path("finished/results.json").read_text())
    assert (saved["samples"], saved["settings"]["attack"]["eps"]) == (4, 0.5)
    files = sorted(str(path.relative_to("finished")) for path in Path("finished").rglob("*") if path.is_file())
    assert files == sorted([*LEFT, *mine])
    assert {Path("finished", name).read_text() for name in mine} == {"mine"}


def test_report_is_a_page_of_several_runs_that_can_be_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(evaluate())
    for name in (["-o", "page.html"], ["--output=page.html"], ["--output", "page.html", "--title", "Ours"]):
        cli.main(["report", "out", "finished", *name])
        assert "wrote page.html" in capsys.readouterr().out
    page = Path("page.html").read_text()
    assert "<title>Ours</title>" in page
    assert page.count('name="run"') == 2
    assert page.count("The attacked image") == 3


@pytest.mark.parametrize("name", ["table.csv", "table.md", "table.parquet", "table.tex", "table.robustbench.json"])
def test_results_are_exported_by_suffix(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["export", "finished", "--to", f"new/{name}"])
    written = capsys.readouterr().out.split("wrote ")[1:]
    assert len(written) == (3 if name.endswith(".json") else 1)
    assert all(Path("".join(path.split("\n"))).stat().st_size > 100 for path in written)


def test_an_export_replaces_no_file_unless_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.md").write_text("mine")
    with pytest.raises(SystemExit):
        cli.main(["export", "finished", "--to", "notes.md"])
    assert "notes.md exists already; choose another --to, or pass --overwrite." in " ".join(
        capsys.readouterr().err.split()
    )
    assert Path("notes.md").read_text() == "mine"
    cli.main(["export", "finished", "--to", "notes.md", "--overwrite"])
    assert "worst case" in Path("notes.md").read_text()


def test_names_in_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    far = f"[/old] [bold]/{'very-' * 20}long.tex"
    cli.main(["export", "finished", "--to", far])
    assert f"wrote {far}\n" in capsys.readouterr().out


def test_adversaries_are_exported_in_the_order_of_the_images() -> None:
    cli.main(again("--save_adversaries"))
    cli.main(["export", "finished", "--to", "worst.pt"])
    found = torch.load("worst.pt", weights_only=True)
    assert found.shape == rd.data.load("digits").require("test").head(len(found)).tensors()[0].shape
    assert len(found) == json.loads(Path("finished/results.json").read_text())["samples"]


def test_converted_checkpoint_can_be_evaluated_and_transferred_from(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["convert", "resnet.pth.tar"])
    assert "resnet.safetensors holds a ResNet with" in " ".join(capsys.readouterr().out.split())
    converted, weights = rd.load("resnet.safetensors").state_dict(), torch.load("resnet.pth.tar", weights_only=True)
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    tiny = [f"--strict.{name}=1" for name in ("steps", "restarts", "apgd_steps", "targets", "queries", "probe_images")]
    cli.main(evaluate("--protocol", "strict", "--transfer", "resnet.safetensors", *tiny, n="2"))
    assert "transferred, resnet" in capsys.readouterr().out


def test_early_state_is_chosen_on_development_when_the_weights_do_not_say() -> None:
    cli.main(evaluate("--early", "3"))
    assert json.loads(Path("out/results.json").read_text())["settings"]["early"] == 3
    cli.main(evaluate("--overwrite", "true", weights="undecided.safetensors"))
    assert json.loads(Path("out/results.json").read_text())["settings"]["early"] in (1, 2, 3)


def test_early_state_is_not_asked_for_where_none_is_read() -> None:
    arguments = evaluate("--protocol", "slow-down", weights="undecided.safetensors", data="alone/test.parquet")
    cli.main(arguments)
    assert "early" not in json.loads(Path("out/results.json").read_text())["settings"]


def test_results_of_an_explicit_network_are_named_after_its_protocol() -> None:
    cli.main(["evaluate", "explicit.safetensors", "--data", "digits", "-n", "1", "--attack.steps", "1"])
    assert Path("runs/evaluate/explicit-digits-network/results.json").is_file()


@pytest.mark.parametrize("place", [lambda config: ["--config", config], lambda config: [f"--config={config}"]])
def test_options_may_stand_in_a_file_and_dotted_ones_override_it(place: Callable[[str], list[str]]) -> None:
    Path("options.yaml").write_text(
        "data: digits\nn: 5\nearly: 1\nattack:\n  eps: 0.2\n  steps: 1\n  step_size: 0.1\n"
        "estimators:\n  steps: [1]\n  dampings: [1.0]\noutput: out\n"
    )
    cli.main(["evaluate", *place("options.yaml"), "--attack.eps", "0.125", "model.safetensors"])
    saved = json.loads(Path("out/results.json").read_text())
    assert saved["samples"] == 5
    assert saved["settings"]["early"] == 1
    assert (saved["settings"]["attack"]["eps"], saved["settings"]["attack"]["step_size"]) == (0.125, 0.1)


def test_command_is_installed(folder: Path) -> None:
    script = Path(sys.executable).parent / "robustdeq"
    done = subprocess.run([script, "evaluate", "missing.safetensors"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("robustdeq: there are no weights at missing.safetensors")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_each_command_and_its_options_on_two_screens(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cli.main([name, "--help"])
    text = capsys.readouterr().out
    shown, function = " ".join(text.split()), command(name)
    assert shown.startswith(f"usage: robustdeq {name}")
    assert COMMANDS[name] in shown
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 70
    described = parse_docstring(inspect.getdoc(function) or "").params
    assert [parameter.arg_name for parameter in described] == list(inspect.signature(function).parameters)
    for parameter in described:
        assert " ".join((parameter.description or "").split()) in shown
    cli.main(["--help"])
    assert COMMANDS[name] in " ".join(capsys.readouterr().out.split())


def test_help_says_how_options_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, written in {
        ("evaluate", "-h"): ("evaluate NETWORK [options]", "-n N", "-o, --output OUTPUT", "--attack.…", "[cifar10]"),
        ("train", "small-fast", "--help"): ("train [RECIPE] [options]", "--resume go on", "--…"),
        ("convert", "--help"): ("convert CHECKPOINT [options]", "--tail {exact,unrolled}", "[exact]"),
        ("report", "--help"): ("report RUN ... [options]", "[report.html]"),
        ("recipes", "--help"): ("usage: robustdeq recipes List",),
    }.items():
        cli.main([*arguments])
        shown = " ".join(capsys.readouterr().out.split())
        assert [text for text in written if text not in shown] == []


def test_help_of_everything_has_the_settings_within_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "--help-all"])
    assert end.value.code == 0
    assert "--attack.step_size" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "small-fast", "--gradient.help", "Exact"])
    assert end.value.code == 0
    assert "--gradient.max_steps" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"robustdeq {version('robustdeq')}\n"


@pytest.mark.parametrize(
    "switch", [["--overwrite"], ["--overwrite", "true"], ["--overwrite=true"], ["--overwrite", "no"]]
)
@pytest.mark.parametrize("first", [True, False])
def test_switch_needs_no_value(switch: list[str], first: bool) -> None:
    arguments = [*switch, "weights.pth.tar"] if first else ["weights.pth.tar", *switch]
    name, settings = parse(["convert", *arguments], {"convert": command("convert")})
    assert (name, settings["checkpoint"]) == ("convert", Path("weights.pth.tar"))
    assert settings["overwrite"] is ("no" not in switch)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["reproduce", "table2", "-n", "4"], {"name": "table2", "n": 4, "list": False}),
        (["reproduce", "--seeds", "3", "table2", "--n=4", "-o=x"], {"name": "table2", "n": 4, "output": Path("x")}),
        (["reproduce", "--name", "fig4"], {"name": "fig4"}),
        (["reproduce", "--list"], {"name": None, "list": True}),
        (["bench", "--batch", "4"], {"name": "all", "batch": 4}),
        (["bench", "solve", "-o", "out"], {"name": "solve", "output": Path("out")}),
        (["report", "a", "b", "-o", "c.html"], {"runs": [Path("a"), Path("b")], "output": Path("c.html")}),
        (["report", "--output", "c.html", "a"], {"runs": [Path("a")], "output": Path("c.html")}),
        (["export", "--to", "a.csv", "folder"], {"results": Path("folder"), "to": Path("a.csv")}),
        (["evaluate", "--save_adversaries", "w", "-n64"], {"network": "w", "n": 64, "save_adversaries": True}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_and_options_stand_in_any_order(arguments: list[str], settings: dict[str, object]) -> None:
    name, parsed = parse(arguments, {arguments[0]: command(arguments[0])})
    assert name == arguments[0]
    assert {key: parsed[key] for key in settings} == settings


def parsed_training(*arguments: str) -> dict[str, Any]:
    return parse(["train", *arguments], {"train": command("train")})[1]


def test_options_override_a_recipe_wherever_they_stand() -> None:
    Path("mine.yaml").write_text("base: conv-digits-exact-8-7\nschedule: {seed: 5, max_steps: 7}")
    options = ["--schedule.seed", "42", "--resume", "--gradient.max_steps", "3", "--objective.attack.steps", "2"]
    last, first = parsed_training("mine.yaml", *options), parsed_training(*options, "mine.yaml")
    assert parsed_training(*options[:3], "mine.yaml", *options[3:]) == last == first
    assert (last["recipe"], last["resume"]) == ("mine.yaml", True)
    assert (last["schedule"].seed, last["schedule"].max_steps) == (42, 7)
    assert repr(last["gradient"]).startswith("Exact(max_steps=3")


def test_printed_settings_are_those_of_the_recipe_and_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed_training("small-fast", "--schedule.seed", "3", "--print_config")
    Path("printed.yaml").write_text(capsys.readouterr().out)
    whole = parsed_training("--schedule.seed", "3", "small-fast")
    assert parsed_training("--config", "printed.yaml") | {"recipe": "small-fast"} == whole
    assert parsed_training("printed.yaml") | {"recipe": "small-fast"} == whole
    Path("named.yaml").write_text("recipe: small-fast")
    with pytest.raises(rd.InputError, match="recipe stands in a file of options"):
        parsed_training("--config", "named.yaml")


def test_options_before_the_command_hold_a_section_for_each() -> None:
    Path("sections.yaml").write_text("convert: {checkpoint: resnet.pth.tar, output: new.safetensors}")
    cli.main(["--config", "sections.yaml", "convert"])
    assert Path("new.safetensors").is_file()


HEAVY = {"datasets", "lightning", "matplotlib", "pyautoattack", "scipy"}


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], HEAVY | {"torch", "rich", "jsonargparse"}),
        (["--version"], HEAVY | {"torch", "rich", "jsonargparse"}),
        (["train", "--help"], HEAVY | {"torch", "rich", "jsonargparse"}),
        (["recipes"], HEAVY | {"torch"}),
        (["evluate"], HEAVY | {"torch"}),
        (["models"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_imports_only_what_it_uses(arguments: list[str], absent: set[str]) -> None:
    code = f"""
import sys
from robustdeq.cli import main
try:
    main({arguments})
except SystemExit:
    pass
sys.exit(", ".join({absent} & sys.modules.keys()) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("dropped", "shown"), [(KeyboardInterrupt, False), (SystemExit, False), (KeyError, True)])
def test_signal_that_python_drops_shows_no_traceback(
    dropped: type[BaseException], shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Struck:
        def __del__(self) -> None:
            raise dropped

    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", usual := seen.append)
    monkeypatch.setattr("robustdeq.cli.commands._run", lambda given: [Struck()].clear())
    cli.main([])
    assert bool(seen) == shown
    assert sys.unraisablehook == usual
