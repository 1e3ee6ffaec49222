"""Small training runs, in this process or in others that can be killed."""

import csv
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.data import RandomCropFlip, Splits
from robustdeq.gradients import Phantom
from robustdeq.models import MDEQ, ResNet
from robustdeq.training import (
    AdversarialTraining,
    Hardware,
    JacobianRegularization,
    Optimization,
    OverfittingWatch,
    Recipe,
    Regularization,
    Schedule,
    Standard,
    Validation,
)
from robustdeq.training import (
    fit as fit,
)
from robustdeq.zoo.resnet import ResNetConfig

ATTACK = PGD(eps=0.15, step_size=0.1, steps=1)
FIXED = replace(ATTACK, random_start=False)
SHORT = Schedule(epochs=4, batch_size=32, validation_images=24, validations=4, log_every=1, checkpoint_every=5, seed=0)
BRIEF = replace(SHORT, epochs=1, max_steps=3, validations=1)
CPU = Hardware("cpu")
TIMES = ("seconds", "images_per_second")


def digits(train: int = 128) -> Splits:
    splits = rd.data.load("digits")
    return Splits(splits.require("train").head(train), splits.development, None)


def model(max_steps: int = 2, dropout: float = 0.0) -> MDEQ:
    torch.manual_seed(1)
    deq = rd.models.mdeq(replace(rd.models.PRESETS["nano"], max_steps=max_steps, dropout=dropout), in_channels=1)
    deq.gradient = Phantom(2, 0.5)
    return deq


def residual() -> ResNet:
    torch.manual_seed(1)
    return ResNet(ResNetConfig((1, 1), 8), num_classes=10, in_channels=1)


def recipe(**settings: Any) -> Recipe:
    return Recipe(
        **{
            "objective": Standard(),
            "optimization": Optimization(1e-2, 1e-3, clip_norm=1.0),
            "schedule": SHORT,
            "augmentation": None,
            "validation": Validation(ATTACK),
        }
        | settings
    )


def everything(**schedule: Any) -> Recipe:
    """A recipe with all that a run has to keep through an interruption."""
    steps = {"epochs": 6, "checkpoint_every": 3, "validations": 4} | schedule
    return recipe(
        objective=AdversarialTraining(ATTACK),
        schedule=replace(SHORT, **steps),
        augmentation=RandomCropFlip(1),
        regularization=Regularization(JacobianRegularization(weight=0.5, frequency=0.5, until=1.0)),
        averaging=0.9,
        overfitting=OverfittingWatch(every=4, attack=ATTACK, images=24, drop=0.02),
    )


def rows(folder: Path) -> list[dict[str, str]]:
    """The metrics without those that a clock decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: row[name] for name in row if name not in TIMES} for row in csv.DictReader(file)]


def column(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(folder) if row[name]]


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def assert_same_run(folder: Path, expected: Path) -> None:
    assert record(folder)["history"] == record(expected)["history"]
    assert rows(folder) == rows(expected)
    assert_same(weights(folder), weights(expected))


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def together(count: int, work: Callable[[], object]) -> list[ForkProcess]:
    """So many processes of one run that do the same, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "test"}

    def one(rank: int) -> None:
        os.environ.update(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        torch.set_num_threads(1)
        work()

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=one, args=(rank,), daemon=True) for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def finished(processes: list[ForkProcess], timeout: float = 120) -> list[int | None]:
    """Their exit codes; who is not done in time is killed."""
    try:
        for process in processes:
            process.join(timeout)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
