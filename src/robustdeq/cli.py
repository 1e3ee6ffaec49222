"""The command line: `robustdeq demo | train | evaluate | models`.

Every option has a default that works, every function here is one command, and its signature is its help. Options can
also stand in a YAML file (`--config file.yaml`), and dotted options override it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NoReturn

import torch
from jsonargparse import ArgumentParser, auto_cli
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.data import Images, RandomCropFlip
from robustdeq.data import load as load_data
from robustdeq.errors import InputError
from robustdeq.evaluation import Estimators, white_box_grid
from robustdeq.gradients import Exact, Phantom, StateGradient
from robustdeq.models import MDEQ, PRESETS, load, mdeq
from robustdeq.models.zoo import packaged_names, read_card
from robustdeq.progress import progress_bar
from robustdeq.reporting import grid_table, save_profile_figure
from robustdeq.training import (
    AdversarialTraining,
    JacobianRegularization,
    Objective,
    Optimization,
    Recipe,
    Schedule,
    Standard,
    Validation,
    fit,
)

DEMO_EPS = 0.25
_DEMO_RECIPE = Recipe(
    objective=AdversarialTraining(
        attack=PGD(eps=DEMO_EPS, step_size=DEMO_EPS / 2, steps=3), gradient=Phantom(steps=3, damping=0.5), warmup=0.3
    ),
    optimization=Optimization(learning_rate=2e-2, final_learning_rate=1e-4, warmup=0.25, clip_norm=1.0),
    schedule=Schedule(epochs=15, batch_size=32, validation_images=200, validate_every=5, seed=0),
    augmentation=None,
    validation=Validation(attack=PGD(eps=DEMO_EPS, step_size=DEMO_EPS / 4, steps=10), gradient=Phantom(5, 0.5)),
)
_DEMO_ESTIMATORS = Estimators(steps=(1, 5))

_console = Console()


def demo(output: Path = Path("runs/demo"), n: int = 200) -> None:
    """Train a small model adversarially on digits, attack it through every gradient, and show the table.

    Args:
        output: the folder for the weights, the results and the pictures; what an earlier demo left there is replaced.
        n: how many held-out digits are attacked.
    """
    torch.set_num_threads(1)  # a model this small is no faster on several cores, and far slower on busy ones
    splits = load_data("digits")
    images = splits.require("test").head(n)
    torch.manual_seed(_DEMO_RECIPE.schedule.seed)
    deq = mdeq("nano", num_classes=len(images.classes), in_channels=1)
    with progress_bar("training") as report:
        weights = fit(deq, splits, _DEMO_RECIPE, output, report)
    attack = _DEMO_RECIPE.validation.attack
    _evaluate(
        deq, images, read_card(weights).early, None, attack, "paper", _DEMO_ESTIMATORS, 256, output / "results.json"
    )
    _console.print(f"Weights, results and pictures are in {output}.")


def train(
    model: str = "small",
    data: str = "cifar10",
    output: Path | None = None,
    objective: Literal["pgd-at", "standard"] = "pgd-at",
    gradient: Literal["phantom", "exact"] = "phantom",
    phantom: Phantom = Phantom(steps=5, damping=0.5),  # noqa: B008
    exact: Exact = Exact(max_steps=20, tol=1e-3),  # noqa: B008
    attack: PGD = PGD(),  # noqa: B008
    eps_warmup: float = 0.0,
    optimization: Optimization = Optimization(),  # noqa: B008
    schedule: Schedule = Schedule(),  # noqa: B008
    regularization: JacobianRegularization = JacobianRegularization(),  # noqa: B008
    crop_padding: int = 4,
    flip: bool = True,
    overwrite: bool = False,
) -> None:
    """Train an MDEQ and keep the weights that are most robust on the development split.

    Args:
        model: the size of the model: nano, tiny, small, large or xl.
        data: digits, cifar10, cifar100, svhn, fashion_mnist, owner/name on the hub, or a local file or folder.
        output: the folder for weights and records; runs/MODEL-DATA by default.
        objective: adversarial training (pgd-at) or clean images (standard).
        gradient: how the model is differentiated, for its weights and for the adversaries.
        phantom: the settings of the phantom gradient.
        exact: the settings of the exact gradient.
        attack: the inner attack; eps and step_size in units of pixels in [0, 1].
        eps_warmup: the share of the training over which eps grows from 0.
        optimization: the optimiser.
        schedule: how long and on what.
        regularization: the Jacobian penalty.
        crop_padding: random crops after zero-padding by so many pixels; 0 for none.
        flip: flip images at random.
        overwrite: replace what an earlier run left in the folder.
    """
    splits = load_data(data)
    images = splits.require("train")
    splits.require("development")
    folder = Path("runs") / f"{model}-{Path(data).stem or 'data'}" if output is None else output
    _refuse_to_overwrite([folder / "model.safetensors"], overwrite)
    chosen: StateGradient = {"phantom": phantom, "exact": exact}[gradient]
    torch.manual_seed(schedule.seed)
    deq = mdeq(model, len(images.classes), images.pixels.shape[1], (images.pixels.shape[2], images.pixels.shape[3]))
    deq.gradient = chosen
    objectives: dict[str, Objective] = {
        "pgd-at": AdversarialTraining(attack, chosen, eps_warmup),
        "standard": Standard(),
    }
    recipe = Recipe(
        objective=objectives[objective],
        optimization=optimization,
        schedule=schedule,
        regularization=regularization,
        augmentation=RandomCropFlip(crop_padding, flip) if crop_padding or flip else None,
        validation=Validation(attack, chosen),
    )
    _console.print(f"training {model} on {images.source}")
    with progress_bar("training") as report:
        weights = fit(deq, splits, recipe, folder, report)
    _console.print(f"The best weights are in {weights}.")


def evaluate(
    weights: str,
    data: str = "cifar10",
    n: int | None = None,
    protocol: str = "paper",
    attack: PGD = PGD(),  # noqa: B008
    early: int | None = None,
    estimators: Estimators = Estimators(),  # noqa: B008
    batch_size: int = 128,
    device: str = "auto",
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Attack a model through every gradient, under every defense, and show the table.

    Args:
        weights: a file that `robustdeq train` wrote, or the name of packaged weights.
        data: where the test images come from; see `robustdeq train --help`.
        n: how many test images, from the first; all by default.
        protocol: which attacks: paper.
        attack: PGD and its threat model; eps and step_size in units of pixels in [0, 1].
        early: the state of the early-state defense; by default the one chosen in training, else on the development
            split of the data.
        estimators: the settings of the estimated gradients.
        batch_size: how many images are attacked at once.
        device: cpu, cuda or auto.
        output: the JSON file for the results, with a CSV and a picture beside it; by default
            runs/evaluate/WEIGHTS-DATA.json.
        overwrite: replace an earlier result.
    """
    card = read_card(weights)
    splits = load_data(data)
    images = splits.require("test")
    images = images if n is None else images.head(n)
    path = output or Path("runs/evaluate") / f"{_short(weights)}-{_short(data)}.json"
    _refuse_to_overwrite([path, path.with_suffix(".csv"), path.with_suffix(".png")], overwrite)
    if path.suffix != ".json":
        raise InputError(f"the results are written as JSON; give an --output that ends in .json instead of {path}.")
    early = card.early if early is None else early
    if early is None and splits.development is None:
        raise InputError("the weights do not say which early state they were given; pass --early, the state to read.")
    deq = load(weights)
    _check_fit(deq, images)
    place = _device(device)
    _evaluate(deq.to(place), images, early, splits.development, attack, protocol, estimators, batch_size, path)
    _console.print(f"The results are in {path}.")


def models() -> None:
    """List the sizes of models and the weights that come with the package."""
    sizes = Table(title="sizes")
    for heading in ("name", "scales", "parameters"):
        sizes.add_column(heading, justify="left" if heading == "name" else "right")
    for name, config in PRESETS.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in mdeq(name).parameters())
        sizes.add_row(name, "×".join(map(str, config.channels)), f"{count:,}")
    _console.print(sizes)
    packaged = Table("name", "early state", "trained on", title="weights that come with the package")
    for name in packaged_names():
        card = read_card(name)
        packaged.add_row(name, str(card.early), str(card.provenance.get("data", {}).get("train", "")))
    _console.print(packaged if packaged_names() else "No weights come with the package; train some.")


def _evaluate(
    deq: MDEQ,
    images: Images,
    early: int | None,
    development: Images | None,
    attack: PGD,
    protocol: str,
    estimators: Estimators,
    batch_size: int,
    path: Path,
) -> None:
    place = next(deq.parameters()).device
    x, y = (tensor.to(place) for tensor in images.tensors())
    held_out = None
    if early is None and development is not None:
        held_x, held_y = development.head(256).tensors()
        held_out = held_x.to(place), held_y.to(place)
    with progress_bar(f"attacking {len(images)} images") as report:
        result = white_box_grid(deq, x, y, protocol, attack, early, held_out, estimators, batch_size, report)
    provenance = {
        "data": images.source,
        "fingerprint": images.fingerprint(),
        "command": " ".join(["robustdeq", *sys.argv[1:]]),
        "robustdeq": version("robustdeq"),
    }
    result = replace(result, settings=result.settings | provenance)
    result.save(path)
    save_profile_figure(result, path.with_suffix(".png"))
    _console.print(grid_table(result, f"{attack.norm} attacks with ε = {attack.eps:.4g}"))
    _console.print(f"The images are {images.source}.")


def _check_fit(deq: MDEQ, images: Images) -> None:
    expected = deq.image_shape
    found = tuple(images.pixels.shape[1:])
    if found != expected or len(images.classes) != deq.num_classes:
        raise InputError(
            f"{images.source} has images of shape {found} in {len(images.classes)} classes, and the model was made for "
            f"{expected} in {deq.num_classes}; evaluate it on the data it was made for."
        )


def _device(name: str) -> torch.device:
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if name != "auto" and name not in available:
        raise InputError(f"device is {name!r}; on this machine choose auto or {' or '.join(available)}.")
    return torch.device(available[-1] if name == "auto" else name)


def _short(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.stem == "model" else path.stem


def _refuse_to_overwrite(paths: list[Path], overwrite: bool) -> None:
    for path in paths:
        if any(folder.exists() and not folder.is_dir() for folder in path.parents):
            raise InputError(f"{path.parent} is no folder; choose another --output.")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; choose another --output, or pass --overwrite true.")


class _Parser(ArgumentParser):
    """A parser whose errors are one sentence."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _fail(" ".join(message.split()))


def _fail(sentence: str) -> NoReturn:
    Console(stderr=True).print(f"robustdeq: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; input that cannot be used ends it with one sentence and status 2."""
    try:
        auto_cli([demo, train, evaluate, models], args=arguments, prog="robustdeq", parser_class=_Parser)
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("robustdeq: interrupted.", style="red")
        sys.exit(130)
