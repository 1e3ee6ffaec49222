"""Three commands on a model so small that a thousand of them can be hit: a training, an evaluation, a reproduction."""

import csv
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.solvers import Broyden

WIDTH = 6
_CLOCKED = ("seconds", "images_per_second")


class Cell(nn.Module):
    """tanh(W z + u)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(0.5 * self.mix(z) + u)


def network() -> rd.DEQ:
    """What is trained, attacked and reproduced."""
    injection = nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH))
    return rd.DEQ(injection, Cell(), nn.Linear(WIDTH, 3), Broyden(max_steps=2, tol=1e-3))


@dataclass(frozen=True)
class Victim:
    """A command that is hit.

    Attributes:
        name: of the command.
        words: the command, without its folder.
        outcome: what it leaves in a folder, without what a clock decides.
    """

    name: str
    words: str
    outcome: Callable[[Path], Any]

    def command(self, folder: Path) -> list[str]:
        """The command, as it is begun and as it goes on."""
        return [*self.words.split(), "--device", "cpu", "--output", str(folder)]


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _training(folder: Path) -> Any:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{key: row[key] for key in row if key not in _CLOCKED} for row in csv.DictReader(file)]
    record = json.loads((folder / "training.json").read_text())
    return _digest(load_file(folder / "model.safetensors")), rows, record["history"], record["best"]


def _evaluation(folder: Path) -> Any:
    return [(folder / name).read_text() for name in ("results.json", "results.csv")]


def _reproduction(folder: Path) -> Any:
    found = json.loads((folder / "table5.json").read_text())
    found["provenance"] = {key: part for key, part in found["provenance"].items() if not key.startswith("seconds")}
    return found, [_training(trained) for trained in sorted((folder / "trained").iterdir())]


_MODEL = f"--model {Path(__file__).resolve()}:network"
_SMALL = "--batch_size 2 --n 6"
VICTIMS = {
    victim.name: victim
    for victim in (
        Victim(
            "train",
            f"train {_MODEL} --data images.npz --objective AdversarialTraining --objective.attack.eps 0.2 "
            "--objective.attack.step_size 0.2 --objective.attack.steps 1 --validation.attack.steps 1 "
            "--schedule.epochs 9 --schedule.batch_size 8 --schedule.max_steps 24 --schedule.validations 4 "
            "--schedule.validation_images 8 --schedule.checkpoint_every 3 --schedule.log_every 1 --augmentation null "
            "--optimization.learning_rate 0.05 --regularization.jacobian.weight 0.4 --averaging 0.9 --resume",
            _training,
        ),
        Victim(
            "evaluate",
            f"evaluate model.safetensors --trust --data images.npz {_SMALL} --attack.eps 0.2 --attack.steps 1 "
            "--estimators.steps [1] --estimators.dampings [1.0] --save_adversaries",
            _evaluation,
        ),
        Victim(
            "reproduce",
            f"reproduce table5 {_MODEL} --data images.npz {_SMALL} --budget.max_steps 8 --budget.validations 2 "
            "--budget.validation_images 8 --effort.steps 1",
            _reproduction,
        ),
    )
}


def prepare(place: Path) -> None:
    """Go to a folder, and put there what the victims read."""
    rng = np.random.default_rng(0)
    labels = {part: rng.integers(0, 3, n) for part, n in (("train", 64), ("val", 8), ("test", 6))}
    images = {
        f"x_{part}": (80 * y[:, None, None] + rng.integers(0, 60, (len(y), 4, 4))).astype(np.uint8)
        for part, y in labels.items()
    }
    os.chdir(place)
    np.savez("images.npz", **images, **{f"y_{part}": y for part, y in labels.items()})
    sys.argv = ["robustdeq", "faults"]
    torch.manual_seed(0)
    rd.save(network().eval(), "model.safetensors", early=1, factory=f"{Path(__file__).resolve()}:network")
