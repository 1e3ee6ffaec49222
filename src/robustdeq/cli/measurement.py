"""An evaluation on the command line: all processes share the work; the first one shows and writes the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from robustdeq.base.progress import progress_bar
from robustdeq.base.provenance import command_and_versions
from robustdeq.base.threat import ThreatModel
from robustdeq.cli.console import console
from robustdeq.data import Images
from robustdeq.deq import DEQ
from robustdeq.evaluation import Estimators, Protocol, measure
from robustdeq.evaluation.exhibits import FILE as EXHIBITS
from robustdeq.evaluation.exhibits import exhibits
from robustdeq.reporting import checks_table, grid_table, save_profile_figure, terminal
from robustdeq.zoo import fingerprint

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_EXHIBITED = 6


def show_measured(
    fabric: Fabric | None,
    place: torch.device,
    model: nn.Module,
    images: Images,
    protocol: Protocol,
    estimators: Estimators,
    folder: Path,
    trained: ThreatModel | None,
    exhibited: DEQ | None,
    **settings: Any,
) -> None:
    """Measure with all processes; the first one shows the results and writes them.

    Args:
        fabric: the processes, launched; None where there is only this one.
        place: where one process alone computes.
        model: what is attacked.
        images: the images.
        protocol: the attacks.
        estimators: the settings of the estimated gradients.
        folder: where the results are kept.
        trained: the threat model that the weights were trained in, where it is known.
        exhibited: the model of which a few images are kept to look at; None for none.
        settings: further ones of `evaluation.measure`.
    """
    place = place if fabric is None else fabric.device
    model, (x, y) = model.to(place), (tensor.to(place) for tensor in images.tensors())
    if fabric is not None and not fabric.is_global_zero:
        measure(model, x, y, protocol, folder=folder, fabric=fabric, **settings)
        return
    attack = protocol.attack
    with progress_bar(f"attacking {len(images)} images") as report:
        result = measure(model, x, y, protocol, folder=folder, fabric=fabric, report=report, **settings)
    provenance = {
        "data": images.source,
        "fingerprint": images.fingerprint(),
        "weights": fingerprint(model),
        **command_and_versions(),
    }
    result = replace(result, settings=result.settings | provenance)
    result.save(folder / "results.json")
    if result.profiles:
        save_profile_figure(result, folder / "results.png")
    if exhibited is not None and not (folder / EXHIBITS).is_file():
        x, y = (tensor.to(place) for tensor in images.head(_EXHIBITED).tensors())
        exhibits(exhibited, x, y, images.classes, attack, estimators).save(folder / EXHIBITS)
    title = f"{attack.norm} attacks with ε = {attack.eps:.4g}"
    if trained is not None and trained != attack.threat:
        title += f"; the weights were trained with ε = {trained.eps:.4g} ({trained.norm})"
    console.print(terminal(grid_table(result, title)))
    if result.checks:
        console.print(terminal(checks_table(result)))
    console.print(f"The images are {images.source}. The results are in {folder}.")
