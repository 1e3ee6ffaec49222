"""The command line: `robustdeq demo | train | evaluate | reproduce | report | bench | export | convert | models | …`.

Every option has a default that works, every function here is one command, and its signature is its help. Options can
also stand in a YAML file (`--config file.yaml`), and dotted options override it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import ArgumentParser, auto_cli
from lightning.fabric import Fabric
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from robustdeq.attacks import PGD
from robustdeq.base.errors import InputError, hint
from robustdeq.base.files import write_text
from robustdeq.base.progress import Report, progress_bar
from robustdeq.data import Images
from robustdeq.data import load as load_data
from robustdeq.deq import EntropyReduction, Unroll
from robustdeq.deq.defenses import EarlyState
from robustdeq.deq.gradients import Phantom, StateGradient
from robustdeq.evaluation import (
    Estimators,
    Evaluation,
    Store,
    Strict,
    assemble,
    deq_evaluation,
    network_evaluation,
    reduction_evaluation,
)
from robustdeq.evaluation.distributed import evaluate as evaluate_together
from robustdeq.evaluation.distributed import launch
from robustdeq.evaluation.exhibits import FILE as EXHIBITS_FILE
from robustdeq.evaluation.exhibits import Exhibits, exhibits
from robustdeq.evaluation.protocol import protocol_named
from robustdeq.evaluation.store import FILE as STORE_FILE
from robustdeq.reporting import (
    checks_table,
    claims_table,
    experiments_table,
    grid_table,
    is_report,
    panel_table,
    read_run,
    reproduction_latex,
    save_document,
    save_drawing,
    save_page,
    save_performance,
    save_profile_figure,
    save_training_figure,
)
from robustdeq.reporting import export as export_result
from robustdeq.solvers import Broyden
from robustdeq.study import (
    EXPERIMENTS,
    Budget,
    Effort,
    Experiment,
    Reproduction,
    Study,
    experiment_named,
    scale_named,
)
from robustdeq.study.bench import BENCHES, Setting, bench_named
from robustdeq.study.bench import run as run_bench
from robustdeq.study.run import reproduce as reproduce_experiment
from robustdeq.study.run import settings as settings_of
from robustdeq.training import AdversarialTraining, Hardware, Objective, Optimization, Recipe, Schedule, Validation, fit
from robustdeq.training.plan import Plan
from robustdeq.training.processes import is_first_process
from robustdeq.training.recipes import locate_recipe, recipe_names, recipe_summary
from robustdeq.training.record import METRICS
from robustdeq.zoo import MDEQ, PRESETS, convert_checkpoint, load, mdeq
from robustdeq.zoo.card import Model
from robustdeq.zoo.registry import packaged_names, read_card

DEMO_EPS = 0.25
_EXHIBITED = 6
_DEMO_RECIPE = Recipe(
    objective=AdversarialTraining(
        attack=PGD(eps=DEMO_EPS, step_size=DEMO_EPS / 2, steps=3), gradient=Phantom(steps=3, damping=0.5), warmup=0.3
    ),
    optimization=Optimization(learning_rate=2e-2, final_learning_rate=1e-4, warmup=0.25, clip_norm=1.0),
    schedule=Schedule(epochs=15, batch_size=32, validation_images=200, validations=3, seed=0),
    augmentation=None,
    validation=Validation(attack=PGD(eps=DEMO_EPS, step_size=DEMO_EPS / 4, steps=10)),
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
    attack, early = _DEMO_RECIPE.validation.attack, read_card(weights).early

    def build(where: torch.device, report: Report | None) -> Evaluation:
        x, y = (tensor.to(where) for tensor in images.tensors())
        return deq_evaluation(deq.to(where), x, y, "paper", attack, early, None, _DEMO_ESTIMATORS, 256, report)

    def show(where: torch.device) -> Exhibits:
        x, y = (tensor.to(where) for tensor in images.head(_EXHIBITED).tensors())
        return exhibits(deq.to(where), x, y, images.classes, attack, _DEMO_ESTIMATORS)

    _measure(launch(1, 1, _device("auto").type), build, images, attack, output, overwrite=True, show=show)
    save_page([read_run(output)], output / "report.html")
    _console.print(f"All of it, to look at: {output / 'report.html'}.")


def train(
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

    Begin with the name of a recipe (`robustdeq recipes` lists them) or a YAML file; options override it.

    Args:
        model: the size of an MDEQ (nano, tiny, small, large or xl), or an explicit network (resnet18 or wrn34-10).
        architecture: what of the model is to be different, such as {max_steps: 18, dropout: 0.1}.
        data: digits, cifar10, cifar100, svhn, fashion_mnist, owner/name on the hub, or a local file or folder.
        gradient: how a DEQ is differentiated for its weights, and for its adversaries unless the objective says.
        output: the folder for weights and records; runs/MODEL-DATA by default.
        device: cpu, cuda or auto.
        devices: how many processes on each machine share every batch.
        nodes: how many machines share it; start the command on each with torchrun.
        strategy: ddp, fsdp (the weights sharded; needs CUDA) or auto.
        resume: go on with the run in the folder, from its newest checkpoint.
        overwrite: replace what an earlier run left in the folder.
        settings: the recipe.
    """
    plan = Plan(model, architecture or {}, data, gradient, Recipe(**settings))
    recipe, hardware = plan.recipe, Hardware(device, devices, nodes, strategy)
    splits = load_data(data)
    images = splits.require("train")
    splits.require("development")
    folder = Path("runs") / f"{model}-{Path(data).stem or 'data'}" if output is None else output
    first = is_first_process()
    if first and not resume:
        _refuse_to_overwrite([folder / "run.json", folder / "model.safetensors"], overwrite)
    _refuse_file(folder)
    torch.manual_seed(recipe.schedule.seed)
    network = plan.build(images)
    if not first:
        fit(network, splits, recipe, folder, None, resume, hardware)
        return
    _console.print(f"training {model} on {images.source}")
    with progress_bar("training") as report:
        weights = fit(network, splits, recipe, folder, report, resume, hardware)
    save_training_figure(folder / METRICS, folder / "training.png")
    _console.print(f"The best weights are in {weights}, described in {weights.with_suffix('.md')}.")


def evaluate(
    weights: str,
    data: str = "cifar10",
    n: int | None = None,
    protocol: str = "paper",
    attack: PGD = PGD(),  # noqa: B008
    early: int | None = None,
    estimators: Estimators = Estimators(),  # noqa: B008
    strict: Strict = Strict(),  # noqa: B008
    reduction: EntropyReduction = EntropyReduction(),  # noqa: B008
    transfer: str | list[str] | None = None,
    batch_size: int = 64,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    save_adversaries: bool = False,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Attack a model through every gradient, under every defense, and show the table.

    Everything finished is kept at once; the same command goes on where an interrupted one stopped. An explicit network
    is attacked by PGD and the standard AutoAttack.

    Args:
        weights: a file that `robustdeq train` or `convert` wrote, or the name of packaged weights.
        data: where the test images come from; see `robustdeq train --help`.
        n: how many test images, from the first; all by default.
        protocol: which attacks: paper (Tables 2 and 6), strict (per-image worst case over all we know, with checks of
            the attacks), ready-made (Table 1), autoattack (Table 3) or entropy (input entropy reduction, attacked as
            published and adaptively).
        attack: PGD and its threat model; eps and step_size in units of pixels in [0, 1].
        early: the state of the early-state defense; by default the one chosen in training, else on the development
            split of the data.
        estimators: the settings of the estimated gradients.
        strict: how hard the strict protocol tries.
        reduction: input entropy reduction, for the protocol entropy.
        transfer: weights of an explicit network, or of several as [A, B], whose adversaries the strict protocol tries
            on the model.
        batch_size: how many images are attacked at once.
        device: cpu, cuda or auto.
        devices: how many processes on each machine share the work.
        nodes: how many machines share it; start the command on each with torchrun.
        save_adversaries: keep the adversaries, one safetensors file per attack and batch.
        output: the folder for the results; by default runs/evaluate/WEIGHTS-DATA-PROTOCOL.
        overwrite: discard what an earlier evaluation left in the folder.
    """
    read_card(weights)
    images = load_data(data).require("test")
    images = images if n is None else images.head(n)
    folder = output or Path("runs/evaluate") / f"{_short(weights)}-{_short(data)}-{protocol}"
    _refuse_file(folder)
    model = load(weights)
    _check_fit(model, images)
    place = _device(device)
    sources = {_short(name): load(name) for name in ([transfer] if isinstance(transfer, str) else transfer or ())}
    for source in sources.values():
        _check_fit(source, images)
    held_out = None
    if isinstance(model, MDEQ):
        early, held_out = _early_state(weights, data, early)
        if early is not None:
            EarlyState(early).check(model)

    def build(where: torch.device, report: Report | None) -> Evaluation:
        x, y = (tensor.to(where) for tensor in images.tensors())
        if not isinstance(model, MDEQ):
            return network_evaluation(model.to(where), x, y, attack, batch_size)
        if protocol == "entropy":
            return reduction_evaluation(model.to(where), x, y, reduction, attack, estimators, batch_size)
        networks = {name: source.to(where) for name, source in sources.items()}
        held = None
        if held_out is not None:
            held_x, held_y = held_out.tensors()
            held = held_x.to(where), held_y.to(where)
        return deq_evaluation(
            model.to(where), x, y, protocol, attack, early, held, estimators, batch_size, report, strict, networks
        )

    def show(where: torch.device) -> Exhibits | None:
        if not isinstance(model, MDEQ) or protocol == "entropy":
            return None
        x, y = (tensor.to(where) for tensor in images.head(_EXHIBITED).tensors())
        return exhibits(model.to(where), x, y, images.classes, attack, estimators)

    if protocol != "entropy":
        protocol_named(protocol)
    fabric = launch(devices, nodes, place.type)
    _measure(fabric, build, images, attack, folder, save_adversaries, overwrite, show)


def reproduce(
    name: str | None = None,
    list: bool = False,
    scale: str = "nano",
    weights: str | dict[str, str] | None = None,
    data: str | None = None,
    n: int | None = None,
    budget: Budget = Budget(),  # noqa: B008
    estimators: Estimators = Estimators(),  # noqa: B008
    strict: Strict = Strict(),  # noqa: B008
    effort: Effort = Effort(),  # noqa: B008
    seeds: int = 2,
    batch_size: int = 64,
    device: str = "auto",
    format: Literal["png", "svg", "pdf"] = "png",
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Measure a table or figure of the paper, or one that it could not show, beside the paper's numbers.

    Begin with its name, or with all. Models that it compares are trained where they are missing; everything finished is
    kept at once, and the same command goes on where an interrupted one stopped.

    Args:
        name: of the table or figure (`robustdeq reproduce --list` names them all), or all.
        list: name everything that can be reproduced, and what each needs.
        scale: in what size: nano (on digits), tiny, small, large or xl.
        weights: weights to use instead of training: a file or a name for what comes first in the table, or one for
            each way of training, as --weights.exact-50-50 FILE.
        data: the images; those of the scale by default. See `robustdeq train --help`.
        n: how many test images, from the first; all by default.
        budget: what of each training's schedule is cut short.
        estimators: the settings of the estimated gradients.
        strict: how hard the strict protocol tries.
        effort: how hard the other attacks try.
        seeds: how many trainings of each kind the experiment alignment compares.
        batch_size: how many images are attacked at once.
        device: cpu, cuda or auto.
        format: of the figures.
        output: the folder for models, measurements and results; runs/reproduce/SCALE by default.
        overwrite: replace results that were made with other settings.
    """
    if list:
        _console.print(experiments_table(scale_named(scale)))
        return
    if name is None:
        raise InputError("there is nothing to reproduce; name a table or figure, or pass --list to see them all.")
    experiments = [*EXPERIMENTS.values()] if name == "all" else [experiment_named(name)]
    chosen = scale_named(scale)
    splits = load_data(data or chosen.data)
    images = splits.require("test")
    study = Study(
        scale=chosen,
        splits=splits,
        images=images if n is None else images.head(n),
        folder=output or Path("runs/reproduce") / scale,
        budget=budget,
        estimators=estimators,
        strict=strict,
        effort=effort,
        seeds=seeds,
        batch_size=batch_size,
        device=_device(device),
        progress=progress_bar,
    )
    _refuse_file(study.folder)
    for experiment in experiments:
        first = [way.name for way in experiment.configurations[:1]]
        given = dict.fromkeys(first, weights) if isinstance(weights, str) else weights or {}
        _reproduce(experiment, replace(study, weights=given), format, overwrite)


def _reproduce(experiment: Experiment, study: Study, format: str, overwrite: bool) -> None:
    """Measure one experiment, show it and write it down."""
    path = study.folder / f"{experiment.name}.json"
    if path.exists() and not overwrite:
        before, now = Reproduction.read(path).provenance, settings_of(experiment, study)
        changed = [key for key, value in now.items() if before.get(key) != value]
        if changed:
            raise InputError(
                f"{path} was made with other settings ({changed[0]}: {before.get(changed[0])}, now {now[changed[0]]}); "
                "choose another --output, or pass --overwrite true."
            )
    found = reproduce_experiment(experiment, study)
    found.save(path)
    write_text(path.with_suffix(".tex"), reproduction_latex(found))
    save_drawing(found, path.with_suffix(f".{format}"))
    _console.print(f"[bold]{found.source}: {found.title}[/bold]")
    for sentence in filter(None, (found.remark and f"The paper: {found.remark}", found.legend)):
        _console.print(sentence, markup=False)
    for panel in found.panels:
        _console.print(panel_table(panel))
    _console.print(
        f"The images are {study.images.source}. The numbers are in {path}, with a figure and LaTeX beside it."
    )


def bench(
    name: str = "all",
    size: str = "large",
    batch: int = 16,
    repetitions: int = 5,
    device: str = "auto",
    output: Path = Path("runs/bench"),
    document: Path | None = None,
) -> None:
    """Measure speed and memory as ratios, every side in one run, and say which bounds they keep.

    Args:
        name: of the benchmark: solve, peers, profile, gradients, grid, strict, freezing, growth, throughput, training,
            accuracy; or all.
        size: of the MDEQ, with random weights.
        batch: how many images at once.
        repetitions: how often every side is timed.
        device: cpu, cuda or auto.
        output: the folder for the results, one JSON file per benchmark; trainings that were interrupted go on there.
        document: write all results of that folder as one Markdown file, NAME-MORE.json beside NAME.json included, and
            measure nothing.
    """
    if document is not None:
        save_performance(output, document)
        _console.print(f"wrote {document}")
        return
    benches = [*BENCHES.values()] if name == "all" else [bench_named(name)]
    if size not in PRESETS:
        raise InputError(f"there is no MDEQ {size!r}; choose one of {', '.join(PRESETS)}.")
    setting = Setting(size, batch, repetitions, _device(device), folder=output / "trained")
    _refuse_file(output)
    failed = 0
    for chosen in benches:
        with progress_bar(chosen.title) as report:
            result = run_bench(chosen, replace(setting, report=report))
        result.save(output / f"{chosen.name}.json")
        for panel in result.measured.panels:
            _console.print(panel_table(panel))
        if result.measured.claims:
            _console.print(claims_table(result.measured.claims))
        failed += sum(not claim.holds for claim in result.measured.claims)
    _console.print(f"The results are in {output}.")
    if failed:
        _console.print(f"{failed} of the bounds {'is' if failed == 1 else 'are'} not kept.", style="red")
        sys.exit(1)


def export(results: Path, to: Path | None = None) -> None:
    """Write the results of an evaluation in the format of another tool.

    Args:
        results: the folder of an evaluation, finished.
        to: the file; its suffix is the format: .csv and .md (the table), .parquet (every sample), .tex (LaTeX) or
            .robustbench.json (entries of the leaderboard). By default results.md in the folder.
    """
    with Store.read(results / STORE_FILE) as store:
        result = assemble(store)
    result = replace(result, settings=result.settings | _provenance_of(results))
    for path in export_result(result, results / "results.md" if to is None else to):
        _console.print(f"wrote {path}")


def report(runs: list[Path], output: Path = Path("report.html"), title: str = "How robust is it?") -> None:
    """Make a page, or a Markdown document of tables and figures, from the folders of evaluations and reproductions.

    Args:
        runs: the folders, one after the other.
        output: the file: .html for a page that holds everything and works offline, .md for a document.
        title: of the page.
    """
    found = [read_run(folder) for folder in runs]
    if output.exists() and not is_report(output):
        raise InputError(f"{output} exists and is no report of ours; choose another --output.")
    _refuse_file(output.parent)
    if output.suffix == ".md":
        save_document(found, output)
    elif output.suffix == ".html":
        save_page(found, output, title)
    else:
        raise InputError(f"{output} is neither a page nor a document; give --output a name that ends in .html or .md.")
    _console.print(f"wrote {output}")


def convert(
    checkpoint: Path,
    output: Path | None = None,
    tail: Literal["exact", "unrolled"] = "exact",
    max_steps: int | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of the published MDEQ code, or of a CIFAR residual network, into a weights file.

    Args:
        checkpoint: a .pth.tar file with a state_dict, a bare state dict, or a safetensors file.
        output: the weights file; by default the checkpoint's name with .safetensors.
        tail: how the MDEQ was trained: exact (its output is f(z*)) or unrolled (5 damped steps more).
        max_steps: the solver's steps; by default the published ones.
        overwrite: replace the weights file.
    """
    path = output or checkpoint.with_name(checkpoint.name.split(".")[0] + ".safetensors")
    path = path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")
    if path == checkpoint:
        raise InputError(f"{path} would be replaced by its own conversion; choose another --output.")
    _refuse_to_overwrite([path], overwrite)
    unrolled = Unroll(5, 0.5, from_image=True) if tail == "unrolled" else None
    solver = None if max_steps is None else Broyden(max_steps=max_steps, tol=1e-3, stop="rel")
    model = convert_checkpoint(checkpoint, path, solver=solver, tail=unrolled)
    count = sum(parameter.numel() for parameter in model.parameters())
    _console.print(f"{path} holds a {type(model).__name__} with {count:,} parameters.")


def recipes() -> None:
    """List the recipes for training."""
    table = Table("name", "what it trains", title="recipes")
    for name in recipe_names():
        table.add_row(name, recipe_summary(name))
    _console.print(table)


def models() -> None:
    """List the sizes of models and the weights that can be loaded by name."""
    sizes = Table(title="sizes")
    for heading in ("name", "scales", "parameters"):
        sizes.add_column(heading, justify="left" if heading == "name" else "right")
    for name, config in PRESETS.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in mdeq(name).parameters())
        sizes.add_row(name, "×".join(map(str, config.channels)), f"{count:,}")
    _console.print(sizes)
    packaged = Table("name", "early state", "trained on", title="weights")
    for name in packaged_names():
        card = read_card(name)
        data = card.provenance.get("data")
        packaged.add_row(name, str(card.early or "–"), data["train"] if isinstance(data, dict) else str(data or ""))
    _console.print(packaged if packaged_names() else "There are no weights by name; train some.")


def _early_state(weights: str, data: str, early: int | None) -> tuple[int | None, Images | None]:
    """The early state that is asked for or that the weights name, else the images to choose it on."""
    early = read_card(weights).early if early is None else early
    if early is not None:
        return early, None
    development = load_data(data).development
    if development is None:
        raise InputError("the weights do not say which early state they were given; pass --early, the state to read.")
    return None, development.head(256)


def _measure(
    fabric: Fabric,
    build: Callable[[torch.device, Report | None], Evaluation],
    images: Images,
    attack: PGD,
    folder: Path,
    save_adversaries: bool = False,
    overwrite: bool = False,
    show: Callable[[torch.device], Exhibits | None] = lambda where: None,
) -> None:
    """Do an evaluation with all processes; the first one shows and writes the results, and exhibits of some images."""
    adversaries = folder / "adversaries" if save_adversaries else None
    if not fabric.is_global_zero:
        evaluate_together(fabric, lambda where: build(where, None), folder, None, adversaries)
        return

    def begin(where: torch.device) -> Evaluation:
        evaluation = build(where, report)
        if overwrite:
            _discard(folder)
        return evaluation

    with progress_bar(f"attacking {len(images)} images") as report:
        result = evaluate_together(fabric, begin, folder, report, adversaries)
        report(1.0, "done")
    assert result is not None
    provenance = {
        "data": images.source,
        "fingerprint": images.fingerprint(),
        "command": " ".join(["robustdeq", *sys.argv[1:]]),
        "robustdeq": version("robustdeq"),
    }
    result = replace(result, settings=result.settings | provenance)
    result.save(folder / "results.json")
    if result.profiles:
        save_profile_figure(result, folder / "results.png")
    if not (folder / EXHIBITS_FILE).is_file() and (shown := show(fabric.device)) is not None:
        shown.save(folder / EXHIBITS_FILE)
    _console.print(grid_table(result, f"{attack.norm} attacks with ε = {attack.eps:.4g}"))
    if result.checks:
        _console.print(checks_table(result))
    _console.print(f"The images are {images.source}. The results are in {folder}.")


def _provenance_of(folder: Path) -> dict[str, Any]:
    """What the results say about where they come from, beyond what the store holds."""
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError):
        return {}


def _discard(folder: Path) -> None:
    """Delete what an evaluation leaves in its folder, and nothing else."""
    patterns = (
        f"{STORE_FILE}*",
        "results-[0-9]*.sqlite*",
        "manifest.json",
        "results.json",
        "results.csv",
        "results.png",
        EXHIBITS_FILE,
        "report.html",
        "adversaries/*.safetensors",
    )
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _check_fit(model: Model, images: Images) -> None:
    found = tuple(images.pixels.shape[1:])
    expected = model.image_shape if isinstance(model, MDEQ) else (model.in_channels, *found[1:])
    if found != expected or len(images.classes) != model.num_classes:
        raise InputError(
            f"{images.source} has images of shape {found} in {len(images.classes)} classes, and the model was made for "
            f"{expected} in {model.num_classes}; evaluate it on the data it was made for."
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
        _refuse_file(path.parent)
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; choose another --output, or pass --overwrite true.")


def _refuse_file(folder: Path) -> None:
    if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
        raise InputError(f"{folder} is no folder; choose another --output.")


class _Parser(ArgumentParser):
    """A parser whose errors are one sentence."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sentence = " ".join(message.split())
        if unknown := _UNKNOWN.search(sentence):
            known = [*_options(self), *chain.from_iterable(map(_settings, _CHOICES))]
            meant = hint(next(filter(None, unknown.groups())), known, "")
            sentence += f"; {meant}" if meant else ""
        _fail(sentence)


_UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'|Option '(\w+)' is not accepted"
    r"|Expected a dot import path string: (\w+)"
)
_CHOICES = (Objective, StateGradient)


def _settings(choice: type) -> list[str]:
    """The names of a choice's classes and of their settings."""
    fields = [field.name for field in dataclasses.fields(choice)] if dataclasses.is_dataclass(choice) else []
    return [choice.__name__, *fields, *chain.from_iterable(map(_settings, choice.__subclasses__()))]


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The names of all options of a parser and its commands."""
    names = [option.removeprefix("--") for option in parser._option_string_actions]
    for action in parser._actions:
        commands = action.choices if isinstance(action.choices, dict) else {}
        names += chain.from_iterable(map(_options, commands.values()))
    return names


def _long(argument: str) -> str:
    """An option of one letter may be given with one dash, as `-n 64`; -o is short for --output."""
    argument = re.sub(r"^-o(?==|$)", "--output", argument)
    return f"-{argument}" if re.fullmatch(r"-[a-gi-z](=.*)?", argument) else argument


def _spelt_out(arguments: list[str]) -> list[str]:
    """`train RECIPE …` is `train --config FILE …`, `reproduce NAME …` is `reproduce --name NAME …`, and so on."""
    match arguments:
        case ["report", *rest]:
            runs = [*takewhile(lambda argument: not argument.startswith("-"), rest)]
            return ["report", *[json.dumps(runs)] * bool(runs), *rest[len(runs) :]]
        case ["reproduce", "--list", *rest] if rest[:1] not in (["true"], ["false"]):
            return ["reproduce", "--list", "true", *rest]
        case ["reproduce" | "bench" as command, name, *rest] if not name.startswith("-"):
            return [command, "--name", name, *rest]
        case ["train", recipe, *rest] if not recipe.startswith("-"):
            return ["train", "--config", str(locate_recipe(recipe)), *rest]
    return arguments


def _fail(sentence: str) -> NoReturn:
    Console(stderr=True).print(f"robustdeq: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; input that cannot be used ends it with one sentence and status 2."""
    given = sys.argv[1:] if arguments is None else arguments
    commands = [demo, train, evaluate, reproduce, report, bench, export, convert, models, recipes]
    try:
        auto_cli(commands, args=_spelt_out([*map(_long, given)]), prog="robustdeq", parser_class=_Parser)
    except InputError as error:
        _fail(str(error))
    except ValueError as error:  # the parser's, where one of several types refused its settings
        if not isinstance(error.__cause__, InputError):
            raise
        _fail(str(error.__cause__))
    except OSError as error:
        _fail(f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error}).")
    except KeyboardInterrupt:
        Console(stderr=True).print("robustdeq: interrupted.", style="red")
        sys.exit(130)
