"""Several processes train the model that one trains; what goes wrong in one ends them all, in one sentence."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import (
    FIXED,
    SHORT,
    assert_same_run,
    column,
    digits,
    finished,
    fit,
    model,
    recipe,
    record,
    residual,
    together,
    weights,
)
from torch import Tensor, nn
from typing_extensions import override

import pair
from robustdeq.base.errors import InputError
from robustdeq.data import Images, RandomCropFlip
from robustdeq.data.batches import Batches
from robustdeq.training import AdversarialTraining, Hardware, Optimization, Standard
from robustdeq.training.objectives import Adversaries, Moment


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in float64: in float32, a DEQ at the beginning of its training makes rounding errors differences."""
    batch = Batches._batch

    def doubled(self: Batches, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = batch(self, chosen, generator)
        return (x * self._scale).double() / self._scale.double(), y

    monkeypatch.setattr(Batches, "_batch", doubled)
    monkeypatch.setattr(Images, "_unit", lambda self, pixels: pixels.double() / self.scale)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("make", [residual, model], ids=["explicit", "implicit"])
def test_two_processes_train_the_model_of_one(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    settings = recipe(
        objective=AdversarialTraining(FIXED),
        optimization=Optimization(2e-2, 1e-3, algorithm="sgd", clip_norm=1.0),
        schedule=replace(SHORT, epochs=3, validations=2, validation_images=23),
        augmentation=RandomCropFlip(1),
        averaging=0.9,
    )

    def train(world: int) -> None:
        fit(make().double(), digits(), settings, tmp_path / str(world), hardware=Hardware("cpu", world))

    train(1)
    assert finished(together(2, lambda: train(2))) == [0, 0]
    one, two = tmp_path / "1", tmp_path / "2"
    assert len(column(one, "loss")) == 12
    for name in ("loss", "accuracy", "residual", "solver_steps"):
        assert column(two, name) == pytest.approx(column(one, name), abs=1.5e-5)
    for found, expected in zip(record(two)["history"], record(one)["history"], strict=True):
        assert found.keys() == expected.keys() >= {"step", "clean", "robust"}
        for name in expected.keys() - {"spectral_radius", "lipschitz"}:
            assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert record(two)["devices"] == 2
    begun, found, expected = make().state_dict(), weights(two), weights(one)
    assert all(torch.allclose(found[name], tensor, atol=1e-5, rtol=1e-5) for name, tensor in expected.items())
    assert max(float((tensor - begun[name]).abs().max()) for name, tensor in expected.items()) > 1e-3


class Poisoned(Standard):
    """Not a number, in the second process alone."""

    @override
    def adversaries(self, model: nn.Module, x: Tensor, y: Tensor, moment: Moment) -> Adversaries:
        return Adversaries(x * torch.nan if os.environ.get("RANK") == "1" and moment.step == 2 else x)


def test_divergence_in_one_process_ends_all_alike(tmp_path: Path) -> None:
    settings = recipe(objective=Poisoned(), schedule=replace(SHORT, validations=1, checkpoint_every=3))

    def train() -> None:
        try:
            fit(model(), digits(), settings, tmp_path / "run", hardware=Hardware("cpu", 2))
        except InputError as error:
            (tmp_path / os.environ["RANK"]).write_text(str(error))
            sys.exit(3)

    assert finished(together(2, train)) == [3, 3]
    one, two = ((tmp_path / rank).read_text() for rank in "01")
    assert one == two
    assert one.startswith("the training diverged: its loss was not finite at step 3 or shortly before;")
    assert not any(tmp_path.rglob("*.ckpt"))


def trains(folder: Path, *options: str) -> list[str]:
    settings = {"max_steps": 60, "batch_size": 16, "checkpoint_every": 5, "validations": 2, "validation_images": 16}
    schedule = [word for name, value in settings.items() for word in (f"--schedule.{name}", str(value))]
    quick = ["--objective", "Standard", "--validation.attack.steps", "1", "--architecture.max_steps", "2"]
    return ["train", "--model", "nano", "--data", "digits", *quick, *schedule, "--output", str(folder), *options]


@pytest.mark.slow
def test_killed_worker_ends_the_run_in_one_sentence_and_it_ends_the_same(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    status, output, errors = pair.ended(pair.started(*trains(whole)))
    assert status == 0, errors
    assert output.count("training nano on digits") == output.count("The best weights are in") == 1

    def progressed(step: int) -> bool:
        return any(int(path.stem.split("=")[1]) >= step for path in pieces.glob("checkpoints/step=*.ckpt"))

    process = pair.started(*trains(pieces))
    pair.await_that(lambda: progressed(5), process)
    pair.kill_a_worker(process, 1)
    assert "another process of this run has stopped" in pair.told_once(process)
    process = pair.started(*trains(pieces, "--resume", "true"))
    pair.await_that(lambda: progressed(25), process)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in pair.told_once(process, 130)
    assert not (pieces / "training.json").exists()
    status, _, errors = pair.ended(pair.started(*trains(pieces, "--resume", "true")))
    assert status == 0, errors
    assert_same_run(pieces, whole)


def test_one_process_does_not_train_for_two(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start it on each machine with torchrun --nnodes 1 --nproc-per-node 2"):
        fit(model(), digits(), recipe(), tmp_path, hardware=Hardware("cpu", 2))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 0}, "devices is 0; give 1 or more"),
        ({"nodes": 0}, "nodes is 0; give 1 or more"),
        ({"device": "tpu"}, "device is 'tpu'; choose one of 'auto', 'cpu', 'cuda'"),
        ({"device": "cpu", "strategy": "zero"}, "strategy is 'zero'; choose one of 'auto', 'ddp', 'fsdp'"),
        ({"device": "cpu", "strategy": "fsdp"}, "the strategy fsdp needs CUDA; choose ddp"),
    ],
)
def test_hardware_that_cannot_be_is_refused(settings: dict[str, int | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Hardware(**settings)  # pyright: ignore[reportArgumentType]


def test_more_devices_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="devices is 3, and this machine has 2 for CUDA"):
        Hardware("cuda", 3)
