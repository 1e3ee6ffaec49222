"""`robustdeq train`: a model, trained by a recipe."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import torch

from robustdeq.base.imports import is_import_path
from robustdeq.base.processes import is_first_process
from robustdeq.base.progress import progress_bar
from robustdeq.cli.console import say
from robustdeq.cli.outputs import refuse_file, refuse_to_overwrite
from robustdeq.data import load as load_data
from robustdeq.deq.gradients import Phantom, StateGradient
from robustdeq.recipes import read_recipe
from robustdeq.reporting import save_training_figure
from robustdeq.training import Hardware, Recipe, fit
from robustdeq.training.metrics import METRICS
from robustdeq.training.plan import Plan


def settings_of(word: str) -> dict[str, Any]:
    """The settings that a word behind the command stands for: those of a recipe, or somebody's model alone."""
    return {"model": word} if is_import_path(word) else read_recipe(word)


def train(
    recipe: Annotated[str | None, settings_of] = None,
    *,
    model: str = "small",
    architecture: dict[str, Any] | None = None,
    data: str = "cifar10",
    gradient: StateGradient = Phantom(steps=5, damping=0.5),  # noqa: B008
    output: Path | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Train a model by a recipe and keep the weights that resist best on the development split.

    Args:
        recipe: its name (`robustdeq recipes` lists them) or a YAML file; options override it, wherever they stand. Or
            FILE.py:NAME, for --model FILE.py:NAME without a recipe.
        model: its name (`robustdeq models` lists them), or FILE.py:NAME or package.module:NAME of a function whose code
            runs and returns an rd.DEQ or any module from images to logits.
        architecture: what of the model is to be different, such as {max_steps: 18, dropout: 0.1}, or the arguments of
            FILE.py:NAME.
        data: digits, cifar10, cifar100, svhn, fashion_mnist, owner/name on the hub, a local file (parquet or .npz) or
            folder, or FILE.py:NAME of a function that returns rd.data.Splits or arrays.
        gradient: how a DEQ is differentiated for its weights, and for its adversaries unless the objective says.
        output: the folder for weights and records; runs/MODEL-DATA by default.
        device: cpu, cuda or auto.
        devices: how many processes on each machine share every batch; torchrun runs them.
        nodes: how many machines share it; start the command on each with torchrun.
        strategy: ddp, fsdp (the weights sharded; needs CUDA) or auto.
        resume: go on with the run in the folder, from its newest checkpoint.
        overwrite: replace what an earlier run left in the folder.
        settings: all settings of a recipe: objective, optimization, schedule, regularization, augmentation, validation,
            solver_steps, pretraining, execution, averaging, overfitting, guard.
    """
    plan = Plan(model, architecture or {}, data, gradient, Recipe(**settings))
    hardware = Hardware(device, devices, nodes, strategy)
    hardware.check(plan.recipe)
    splits = load_data(data)
    images = splits.require("train")
    splits.require("development")
    name = model if plan.factory is None else plan.factory.name
    folder = Path("runs") / f"{name}-{Path(data).stem or 'data'}" if output is None else output
    first = is_first_process()
    if first and not resume:
        way_on = "pass --resume to go on with that run, or --overwrite to replace it"
        refuse_to_overwrite([folder / "run.json"], overwrite, way_on)
        results = ("model.safetensors", "model.md", "training.json", METRICS, "training.png")
        refuse_to_overwrite([folder / name for name in results], overwrite)
    refuse_file(folder)
    torch.manual_seed(plan.recipe.schedule.seed)
    network = plan.build(images)
    if not first:
        fit(network, splits, plan.recipe, folder, None, resume, hardware, plan.factory, overwrite)
        return
    logging.basicConfig(format="%(message)s")
    logging.getLogger("robustdeq").setLevel(logging.INFO)
    by = "" if recipe in (None, model) else f", by the recipe {recipe}"
    say(f"training {model} on {images.source}{by}")
    with progress_bar("training") as report:
        weights = fit(network, splits, plan.recipe, folder, report, resume, hardware, plan.factory, overwrite)
    save_training_figure(folder / METRICS, folder / "training.png")
    say(f"The best weights are in {weights}, described in {weights.with_suffix('.md')}.")
