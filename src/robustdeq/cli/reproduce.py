"""`robustdeq reproduce`: the tables and figures of the paper, and beyond it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from robustdeq.base.errors import InputError, hint, require
from robustdeq.base.files import write_text
from robustdeq.base.imports import is_import_path
from robustdeq.base.progress import progress_bar
from robustdeq.cli.console import console, say
from robustdeq.cli.device import device_named
from robustdeq.cli.outputs import refuse_file
from robustdeq.data import load as load_data
from robustdeq.evaluation import Estimators, Strict
from robustdeq.reporting import (
    experiments_table,
    findings_table,
    panel_table,
    reproduction_latex,
    save_drawing,
    terminal,
)
from robustdeq.study import (
    EXPERIMENTS,
    Budget,
    Effort,
    Experiment,
    Reproduction,
    Scale,
    Study,
    experiment_named,
    scale_named,
)
from robustdeq.study.run import reproduce as measure
from robustdeq.study.run import settings
from robustdeq.zoo.factory import Factory


def reproduce(
    name: str | None = None,
    *,
    list: bool = False,
    scale: str = "nano",
    model: str | None = None,
    architecture: dict[str, Any] | None = None,
    weights: str | dict[str, str] | None = None,
    data: str | None = None,
    n: int | None = None,
    budget: Budget = Budget(),  # noqa: B008
    estimators: Estimators = Estimators(),  # noqa: B008
    strict: Strict = Strict(),  # noqa: B008
    effort: Effort = Effort(),  # noqa: B008
    seeds: int = 2,
    ways: tuple[str, ...] = (),
    trust: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    save_adversaries: bool = False,
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
        scale: in what size: nano or conv-digits (on digits), tiny, small, conv-small, large or xl.
        model: FILE.py:NAME or package.module:NAME of a function whose code runs and returns an rd.DEQ, which is then
            trained in every way in the place of that of the scale.
        architecture: of FILE.py:NAME, its arguments, as in --architecture.width 64.
        weights: weights to use instead of training: a file or a name for what comes first in the table, or one for
            each way of training, as --weights.exact-50-50 FILE.
        data: the images; those of the scale by default. See `robustdeq train --help`.
        n: how many test images, from the first; all by default.
        budget: what of each training's schedule is cut short.
        estimators: the settings of the estimated gradients.
        strict: how hard the strict protocol tries.
        effort: how hard the other attacks try.
        seeds: how many trainings of each kind are compared, beyond the paper; claims needs 3 for a verdict.
        ways: the ways of training that overestimate, gradient-or-loss, attack-order and price compare, as in --weights;
            all by default.
        trust: let the code run that makes the models of weights, where these are somebody's own.
        batch_size: how many images are attacked at once.
        device: cpu, cuda or auto.
        save_adversaries: keep the adversaries of each measurement, beside its outcomes in OUTPUT/measured.
        format: of the figures.
        output: the folder for models, measurements and results; runs/reproduce/SCALE by default.
        overwrite: replace results that were made with other settings.
    """
    if list:
        console.print(terminal(experiments_table(scale_named(scale))))
        return
    if name is None:
        raise InputError("there is nothing to reproduce; name a table or figure, or pass --list to see them all.")
    chosen, factory = scale_named(scale), None if model is None else Factory(model, architecture or {})
    require(factory is None or is_import_path(factory.path), f"{model} is no import path; give FILE.py:NAME.")
    require(factory is not None or not architecture, "--architecture sets what FILE.py:NAME takes; give it as --model.")
    chosen = chosen if factory is None else chosen.of(factory)
    here = [experiment for experiment in EXPERIMENTS.values() if not experiment.scales or scale in experiment.scales]
    experiments = here if name == "all" else [experiment_named(name)]
    for experiment in experiments:
        only = " or ".join(experiment.scales)
        require(experiment in here, f"{experiment.name} is not measured at the scale {scale}; give --scale {only}.")
        usable = name == "all" or not weights or not experiment.trains
        require(usable, f"{experiment.name} looks at the training itself; leave out --weights.")
    for key in weights if isinstance(weights, dict) else ():
        _check_way(key, chosen)
    splits = load_data(data or chosen.data)
    images = splits.require("test")
    study = Study(
        scale=chosen,
        splits=splits,
        images=images if n is None else images.head(n),
        folder=output or Path("runs/reproduce") / "-".join([scale] if factory is None else [scale, factory.name]),
        budget=budget,
        estimators=estimators,
        strict=strict,
        effort=effort,
        seeds=seeds,
        ways=ways,
        trust=trust,
        batch_size=batch_size,
        device=device_named(device),
        adversaries=save_adversaries,
        progress=progress_bar,
    )
    refuse_file(study.folder)
    for experiment in experiments:
        first = [way.name for way in experiment.configurations[:1]]
        given = dict.fromkeys(first, weights) if isinstance(weights, str) else weights or {}
        _reproduce(experiment, replace(study, weights=given), format, overwrite)


def _check_way(key: str, scale: Scale) -> None:
    """Raise `InputError` unless weights are given for a way of training: NAME, NAME-SEED, or SIZE- before either."""
    ways = dict.fromkeys(way.name for experiment in EXPERIMENTS.values() for way in experiment.configurations)
    sizes, names = ("|".join(map(re.escape, choices)) for choices in (scale.sizes, ways))
    if not re.fullmatch(rf"(({sizes})-)?({names})(-\d+)?", key):
        raise InputError(f"there is no way of training {key!r}; {hint(key, ways)}")


def _reproduce(experiment: Experiment, study: Study, format: str, overwrite: bool) -> None:
    """Measure one experiment, show it and write it down."""
    path = study.folder / f"{experiment.name}.json"
    if path.exists() and not overwrite:
        before, now = Reproduction.read(path).provenance, settings(experiment, study)
        changed = [key for key, value in now.items() if before.get(key) != value]
        if changed:
            raise InputError(
                f"{path} was made with other settings ({changed[0]}: {before.get(changed[0])}, now {now[changed[0]]}); "
                "choose another --output, or pass --overwrite."
            )
    found = measure(experiment, study)
    found.save(path)
    write_text(path.with_suffix(".tex"), reproduction_latex(found))
    save_drawing(found, path.with_suffix(f".{format}"))
    console.print(f"[bold]{found.source}: {found.title}[/bold]")
    for sentence in filter(None, (found.remark and f"The paper: {found.remark}", found.legend)):
        console.print(sentence, markup=False)
    if found.findings:
        console.print(terminal(findings_table(found.findings)))
    for panel in found.panels:
        console.print(terminal(panel_table(panel)))
    say(f"The images are {study.images.source}. The numbers are in {path}, with a figure and LaTeX beside it.")
