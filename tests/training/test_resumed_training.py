"""A run that was killed, wherever that was, ends in the weights, the metrics and the history of one that was not."""

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from runs import (
    ATTACK,
    CPU,
    assert_same,
    assert_same_run,
    column,
    digits,
    everything,
    everything_in,
    finished,
    model,
    recipe,
    together,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import override

from robustdeq.base.errors import InputError
from robustdeq.base.files import replace_with
from robustdeq.models import MDEQ
from robustdeq.training import AdversarialTraining, Hardware, Recipe, Training, checkpoints, fit
from robustdeq.training.fitting import _quiet
from robustdeq.training.objectives import Adversaries, Moment

STEPS = 12
pytestmark = pytest.mark.xdist_group("resumed")


class Killed(Exception):
    pass


def after(steps: int) -> Callable[[float, str], None]:
    """A report that ends a run in its step after so many."""
    left = iter(range(steps))

    def report(share: float, what: str) -> None:
        if next(left, None) is None:
            raise Killed

    return report


def run(
    folder: Path, settings: Recipe, report: Callable[[float, str], None] | None = None, resume: bool = True
) -> MDEQ:
    deq = model(dropout=0.2)
    fit(deq, digits(70), settings, folder, report, True, CPU)
    return deq


def killed(folder: Path, steps: int, settings: Recipe | None = None) -> None:
    with pytest.raises(Killed):
        run(folder, settings or everything(), after(steps))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one piece."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, everything())
    assert len(column(folder, "loss")) == STEPS
    assert 0 < len(column(folder, "jacobian")) < STEPS
    return folder


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_run_goes_on_from_every_step(accumulate: int, tmp_path: Path) -> None:
    settings = everything(checkpoint_every=1, accumulate=accumulate, epochs=4)
    run(tmp_path / "whole", settings)
    for _ in range(7):
        killed(tmp_path / "pieces", 1, settings)
    run(tmp_path / "pieces", settings)
    assert_same_run(tmp_path / "pieces", tmp_path / "whole")


def dies_in_a_validation(step: int) -> None:
    usual = Training.validation_step

    def validation_step(self: Training, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        usual(self, batch, batch_idx)
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Training.validation_step = validation_step


def dies_in_a_checkpoint(step: int) -> None:
    def halfway(path: Path, write: Callable[[Path], object]) -> None:
        def half(temporary: Path) -> None:
            write(temporary)
            if path.name == f"step={step}.ckpt":
                os.truncate(temporary, temporary.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        replace_with(path, half)

    checkpoints.replace_with = halfway


HAZARDS = [(dies_in_a_checkpoint, 4), (dies_in_a_validation, 6), (dies_in_a_checkpoint, 8)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("hazards", "moments"), [(HAZARDS[:1], 0), pytest.param(HAZARDS, 3, marks=pytest.mark.slow)], ids=["one", "many"]
)
def test_killed_run_ends_the_same(
    hazards: list[tuple[Callable[[int], None], int]], moments: int, tmp_path: Path
) -> None:
    fork, rng = multiprocessing.get_context("fork"), np.random.default_rng(0)

    def piece(hazard: Callable[[int], None] | None, step: int) -> None:
        if hazard is not None:
            hazard(step)
        run(tmp_path, everything(checkpoint_every=2))

    run(tmp_path / "whole", everything(checkpoint_every=2))
    for hazard, step in [*hazards, *[(None, 0)] * moments]:
        process = fork.Process(target=piece, args=(hazard, step))
        process.start()
        process.join(60 if hazard else rng.uniform(0.1, 0.8))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL or (hazard is None and process.exitcode == 0)
    run(tmp_path, everything(checkpoint_every=2))
    assert_same_run(tmp_path, tmp_path / "whole")
    assert [path.name for path in tmp_path.rglob(".*")] == []


@pytest.mark.slow
def test_killed_run_of_two_processes_ends_the_same(tmp_path: Path) -> None:
    rng, pieces = np.random.default_rng(0), tmp_path / "pieces"

    def piece(folder: Path) -> None:
        settings = everything(checkpoint_every=1)
        fit(model(dropout=0.2), digits(70), settings, folder, resume=True, hardware=Hardware("cpu", 2))

    def newest() -> int:
        return max([int(path.stem.split("=")[1]) for path in pieces.glob("checkpoints/step=*.ckpt")], default=0)

    assert finished(together(2, lambda: piece(tmp_path / "whole"))) == [0, 0]
    for _ in range(3):
        before, patience = newest(), time.monotonic() + 60
        processes = together(2, lambda: piece(pieces))
        while newest() == before and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        assert newest() > before
    assert not (pieces / "training.json").exists()
    assert finished(together(2, lambda: piece(pieces))) == [0, 0]
    assert_same_run(pieces, tmp_path / "whole")


def cut(content: bytes) -> bytes:
    return content[:-1000]


def flipped(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_damaged_checkpoints_are_passed_over(
    damage: Callable[[bytes], bytes], whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first: list[str] = []

    def begins_at(folder: Path) -> str:
        first.clear()
        run(folder, everything(), lambda share, what: first.append(what.split()[1].rstrip(",")))
        return first[0]

    killed(tmp_path / "one", 10)
    with (tmp_path / "one" / "metrics.csv").open("a") as file:
        file.write("1,0.")
    newest, older = (tmp_path / "one" / "checkpoints" / f"step={step}.ckpt" for step in (9, 6))
    newest.write_bytes(damage(newest.read_bytes()))
    shutil.copytree(tmp_path / "one", tmp_path / "both")
    assert begins_at(tmp_path / "one") == "7/12"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "9.ckpt" in r.getMessage()] == [
        f"{newest} is damaged or cut short; the checkpoint before it is used."
    ]
    assert_same_run(tmp_path / "one", whole)

    broken = tmp_path / "both" / older.relative_to(tmp_path / "one")
    broken.write_bytes(damage(broken.read_bytes()))
    assert begins_at(tmp_path / "both") == "1/12"
    assert_same_run(tmp_path / "both", whole)


def test_metrics_that_were_damaged_are_those_of_the_checkpoint_again(whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, 10)
    metrics = tmp_path / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes().replace(b"1", b"7"))
    run(tmp_path, everything())
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.csv", "training.json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: content.replace(b"1", b"3", 1)])
def test_finished_run_that_was_damaged_is_refused(
    name: str, damage: Callable[[bytes], bytes], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    (folder / name).write_bytes(damage((whole / name).read_bytes()))
    before = everything_in(folder)
    with pytest.raises(InputError, match=f"{name} is damaged; put back a copy of it, or train again with --overwrite"):
        run(folder, everything())
    assert everything_in(folder) == before


def test_second_training_in_a_folder_is_refused_and_the_first_one_ends_as_alone(whole: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(share: float, what: str) -> None:
        if what.startswith("step 5/"):
            for resume in (True, False):
                with pytest.raises(InputError, match="another process works in") as refusal:
                    run(tmp_path, everything(), resume=resume)
                refused.append(str(refusal.value))

    run(tmp_path, everything(), meanwhile)
    assert len(refused) == 2
    assert not any("\n" in sentence for sentence in refused)
    assert_same_run(tmp_path, whole)


def test_disk_that_ends_the_thread_of_the_logs_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.append(failed.exc_type))

    def fail(error: Exception) -> None:
        raise error

    with _quiet():
        for error in (OSError("full"), RuntimeError("else")):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert told == [RuntimeError]


@pytest.mark.parametrize(
    ("settings", "images", "steps", "changed"),
    [
        (everything(), 70, 3, "model"),
        (everything(seed=1), 70, 2, "recipe"),
        (everything(), 71, 2, "data"),
    ],
    ids=["model", "recipe", "data"],
)
def test_run_of_something_else_is_refused(
    settings: Recipe, images: int, steps: int, changed: str, whole: Path, tmp_path: Path
) -> None:
    killed(tmp_path / "half", 5)
    before = everything_in(tmp_path), everything_in(whole)
    for folder in (tmp_path / "half", whole):
        with pytest.raises(InputError, match=f"holds a run with another {changed}; resume it with the settings"):
            fit(model(steps, 0.2), digits(images), settings, folder, resume=True, hardware=CPU)
    assert (everything_in(tmp_path), everything_in(whole)) == before


def test_weights_without_a_run_are_not_replaced_by_resuming(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"holds model\.safetensors but no run that could go on"):
        run(tmp_path, everything())
    assert everything_in(tmp_path) == {"model.safetensors": b"precious"}


@pytest.mark.parametrize("name", ["checkpoints/step=7.ckpt", "tensorboard/events.mine"])
def test_files_that_no_run_has_written_are_not_replaced_by_resuming(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        run(tmp_path, everything())
    assert (tmp_path / name).read_bytes() == b"precious"


def test_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = everything_in(whole)
    deq = model(dropout=0.2)
    reports: list[str] = []
    weights = fit(deq, digits(70), everything(), whole, lambda share, what: reports.append(what), True, CPU)
    assert weights == whole / "model.safetensors"
    assert everything_in(whole) == before
    assert reports == []
    assert not deq.training
    assert_same(deq.state_dict(), load_file(weights))


def test_run_that_begins_anew_replaces_all_of_an_earlier_one_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    mine = ("notes.txt", "checkpoints/mine.ckpt", "tensorboard/mine", ".run.sh", ".metrics.yml", ".training.notes")
    strangers = dict.fromkeys(mine, b"mine")
    for name, content in strangers.items():
        (folder / name).write_bytes(content)
    with pytest.raises(Killed):
        fit(model(), digits(), recipe(), folder, after(1), hardware=CPU, overwrite=True)
    left = everything_in(folder)
    assert {name: left.get(name) for name in strangers} == strangers
    assert {"training.json", "model.safetensors"}.isdisjoint(left)
    assert not any(name.endswith(".ckpt") for name in left if name not in strangers)
    assert len(column(folder, "loss")) == 2
    with pytest.raises(InputError, match="another recipe"):
        run(folder, everything())


@dataclass(frozen=True)
class Interrupted(AdversarialTraining):
    """In one of its steps the user presses Ctrl-C, once or more often."""

    times: int = 1
    step: int = 6

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        if moment.step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return super().adversaries(model, x, y, moment)


@pytest.mark.parametrize(
    ("times", "step", "left"),
    [(1, 6, {6, 7}), (2, 6, {3, 6}), (1, 5, {3, 6})],
    ids=["once", "twice", "before a validation"],
)
def test_interruption_leaves_a_checkpoint_between_two_steps(
    times: int, step: int, left: set[int], whole: Path, tmp_path: Path
) -> None:
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, replace(everything(), objective=Interrupted(ATTACK, times=times, step=step)))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    steps = {int(path.stem.split("=")[1]) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == left
    provenance = tmp_path / "run.json"
    provenance.write_bytes((whole / "run.json").read_bytes())
    run(tmp_path, everything())
    assert_same_run(tmp_path, whole)


class Impatient(AdversarialTraining):
    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        raise KeyboardInterrupt


def test_interruption_in_the_middle_of_a_step_saves_no_half_of_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(model(), digits(), recipe(objective=Impatient()), tmp_path, hardware=CPU)
    assert not any(tmp_path.rglob("*.ckpt"))
