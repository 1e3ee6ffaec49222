"""What each option of a training costs in accuracy: `nano` on digits with and without it, over several seeds."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robustdeq.attacks import PGD
from robustdeq.data import Splits, load
from robustdeq.deq.gradients import Phantom
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.bench.options import OPTIONS, Option
from robustdeq.study.panel import Drawing, Panel
from robustdeq.training import Optimization, Recipe, Schedule, Validation
from robustdeq.zoo import mdeq

SEEDS = (0, 1, 2)
_DIGITS = PGD(eps=0.25, step_size=0.0625, steps=10)


def _accuracies(option: Option, splits: Splits, seed: int, folder: Path) -> tuple[float, float]:
    """Clean and robust accuracy on the held-out digits, in percent, of a training in a folder, new or gone on with."""
    from robustdeq.training import fit

    torch.manual_seed(seed)
    deq = mdeq("nano", in_channels=1)
    deq.gradient = option.gradient
    recipe = Recipe(
        objective=replace(option.objective(replace(_DIGITS, step_size=0.125, steps=3)), warmup=0.3),
        optimization=Optimization(2e-2, 1e-4, warmup=0.25, clip_norm=1.0),
        schedule=Schedule(epochs=15, batch_size=32, validation_images=200, validations=1, seed=seed),
        augmentation=None,
        validation=Validation(_DIGITS, Phantom(5, 0.5)),
        solver_steps=option.solver_steps,
        execution=option.execution,
        averaging=option.averaging,
    )
    fit(deq, splits, recipe, folder, resume=True)
    best = json.loads((folder / "training.json").read_text(encoding="utf-8"))["best"]
    return 100 * best["clean"], 100 * best["robust"]


def _measure(setting: Setting) -> Measured:
    splits = load("digits")
    found = []
    with tempfile.TemporaryDirectory() as passing:
        for i, (name, option) in enumerate(OPTIONS.items()):
            found.append([])
            for j, seed in enumerate(SEEDS):
                setting.report((i + j / len(SEEDS)) / len(OPTIONS), f"{name}, seed {seed}")
                folder = (setting.folder or Path(passing)) / f"option-{i}-seed-{seed}"
                found[-1].append(_accuracies(option, splits, seed, folder))
    accuracies = np.array(found)
    panel = Panel(
        f"nano on digits, {len(SEEDS)} seeds, 200 held-out images, PGD-10, ε = 0.25 (L∞); mean and range",
        "%",
        tuple(OPTIONS),
        ("clean", "ready-made"),
        accuracies.mean(axis=1),
        "Option",
        low=accuracies.min(axis=1),
        high=accuracies.max(axis=1),
        drawing=Drawing.BARS,
        interval="range of the seeds",
    )
    return Measured((panel,))


ACCURACY = Bench("accuracy", "What the options of a training cost in accuracy", _measure)
