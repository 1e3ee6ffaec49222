"""An evaluation on the command line: all processes share the work; the first one shows and writes the results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.fabric import Fabric

from robustdeq.attacks import PGD
from robustdeq.base.progress import Report, progress_bar
from robustdeq.cli.console import console
from robustdeq.data import Images
from robustdeq.evaluation import Estimators, Evaluation
from robustdeq.evaluation.distributed import evaluate
from robustdeq.evaluation.exhibits import FILE as EXHIBITS
from robustdeq.evaluation.exhibits import exhibits
from robustdeq.evaluation.store import FILE as STORE
from robustdeq.reporting import checks_table, grid_table, save_profile_figure, terminal
from robustdeq.zoo import MDEQ

_EXHIBITED = 6
_LEFT = (
    f"{STORE}*",
    "results-[0-9]*.sqlite*",
    "manifest.json",
    "results.json",
    "results.csv",
    "results.png",
    EXHIBITS,
    "report.html",
    "adversaries/*.safetensors",
)


def measure(
    fabric: Fabric,
    build: Callable[[torch.device, Report | None], Evaluation],
    images: Images,
    attack: PGD,
    estimators: Estimators,
    folder: Path,
    exhibited: MDEQ | None,
    save_adversaries: bool = False,
    overwrite: bool = False,
) -> None:
    """Do an evaluation with all processes; the first one shows the results and writes them.

    Args:
        fabric: the processes, launched.
        build: makes the evaluation on a device, and reports how far it is.
        images: what is attacked.
        attack: PGD and its threat model.
        estimators: the settings of the estimated gradients.
        folder: where the results are kept.
        exhibited: the model of which a few images are kept to look at; None for none.
        save_adversaries: keep the adversaries too.
        overwrite: delete what an earlier evaluation left in the folder, once this one is known to be possible.
    """
    adversaries = folder / "adversaries" if save_adversaries else None
    if not fabric.is_global_zero:
        evaluate(fabric, lambda where: build(where, None), folder, None, adversaries)
        return

    def begin(where: torch.device) -> Evaluation:
        evaluation = build(where, report)
        for path in (path for pattern in _LEFT * overwrite for path in folder.glob(pattern)):
            path.unlink()
        return evaluation

    with progress_bar(f"attacking {len(images)} images") as report:
        result = evaluate(fabric, begin, folder, report, adversaries)
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
    if exhibited is not None and not (folder / EXHIBITS).is_file():
        x, y = (tensor.to(fabric.device) for tensor in images.head(_EXHIBITED).tensors())
        exhibits(exhibited, x, y, images.classes, attack, estimators).save(folder / EXHIBITS)
    console.print(terminal(grid_table(result, f"{attack.norm} attacks with ε = {attack.eps:.4g}")))
    if result.checks:
        console.print(terminal(checks_table(result)))
    console.print(f"The images are {images.source}. The results are in {folder}.")
