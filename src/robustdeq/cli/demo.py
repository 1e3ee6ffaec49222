"""`robustdeq demo`: everything in two minutes, on a model small enough to be trained meanwhile."""

from __future__ import annotations

from pathlib import Path

import torch

from robustdeq.attacks import PGD
from robustdeq.base.progress import progress_bar
from robustdeq.cli.console import console
from robustdeq.cli.device import device_named
from robustdeq.cli.measurement import show_measured
from robustdeq.data import load as load_data
from robustdeq.deq.gradients import Phantom
from robustdeq.evaluation import Estimators, Paper
from robustdeq.evaluation.distributed import launch
from robustdeq.reporting import read_run, save_page
from robustdeq.training import AdversarialTraining, Optimization, Recipe, Schedule, Validation, fit
from robustdeq.zoo import mdeq
from robustdeq.zoo.registry import read_card

EPS = 0.25
RECIPE = Recipe(
    objective=AdversarialTraining(
        attack=PGD(eps=EPS, step_size=EPS / 2, steps=3), gradient=Phantom(steps=3, damping=0.5), warmup=0.3
    ),
    optimization=Optimization(learning_rate=2e-2, final_learning_rate=1e-4, warmup=0.25, clip_norm=1.0),
    schedule=Schedule(epochs=15, batch_size=32, validation_images=200, validations=3, seed=0),
    augmentation=None,
    validation=Validation(attack=PGD(eps=EPS, step_size=EPS / 4, steps=10)),
)
ESTIMATORS = Estimators(steps=(1, 5))


def demo(output: Path = Path("runs/demo"), n: int = 200) -> None:
    """Train a small model adversarially on digits, attack it through every gradient, and show the table.

    Args:
        output: the folder for the weights, the results and the pictures; what an earlier demo left there is replaced.
        n: how many held-out digits are attacked.
    """
    torch.set_num_threads(1)  # a model this small is no faster on several cores, and far slower on busy ones
    splits = load_data("digits")
    images = splits.require("test").head(n)
    torch.manual_seed(RECIPE.schedule.seed)
    deq = mdeq("nano", num_classes=len(images.classes), in_channels=1)
    with progress_bar("training") as report:
        weights = fit(deq, splits, RECIPE, output, report)
    attack, early = RECIPE.validation.attack, read_card(weights).early

    fabric, protocol = launch(1, 1, device_named("auto").type), Paper(attack, ESTIMATORS)
    settings = {"early": early, "batch_size": 256, "overwrite": True}
    show_measured(fabric, deq, images, protocol, ESTIMATORS, output, exhibited=deq, **settings)
    save_page([read_run(output)], output / "report.html")
    console.print(f"All of it, to look at: {output / 'report.html'}.")
