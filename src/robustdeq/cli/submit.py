"""`robustdeq submit`: a model for the leaderboard, checked from nothing but its weights and its adversaries."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robustdeq.base.errors import require
from robustdeq.base.imports import is_import_path
from robustdeq.base.progress import progress_bar
from robustdeq.base.provenance import command_and_versions
from robustdeq.base.tensors import read_tensors
from robustdeq.certificates import Certificate, IntervalBounds, Lipschitz, Smoothing
from robustdeq.cli.console import console, say
from robustdeq.cli.device import device_named
from robustdeq.cli.outputs import refuse_to_overwrite
from robustdeq.cli.subject import check_named, opened
from robustdeq.data import Images
from robustdeq.data import load as load_data
from robustdeq.evaluation import WorstCase
from robustdeq.leaderboard import SHORT, Entry, Statement, judged, row_file
from robustdeq.reporting import entry_table, terminal
from robustdeq.zoo import fingerprint


def submit(
    entry: Path,
    *,
    effort: WorstCase = SHORT,
    trust: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    output: Path = Path("results/leaderboard"),
    overwrite: bool = False,
) -> None:
    """Check an entry of the leaderboard and write its row; nothing that the entry says is taken for granted.

    Its adversaries must lie within the threat model and are judged again, attacks of ours must not do much
    better, and a certificate is computed again.

    Args:
        entry: an entry.toml; docs/leaderboard says what it holds.
        effort: how hard our own attacks try.
        trust: let the code run that the entry, or the weights file of somebody's own model, names.
        batch_size: how many images are attacked at once.
        device: cpu, cuda or auto.
        output: the folder of the rows.
        overwrite: replace a row of the same name.
    """
    said, beside = Statement.read(entry), entry.parent
    path = row_file(output, said.name)
    refuse_to_overwrite([path], overwrite)
    if path.is_file():
        other = Entry.read(path).name
        require(other == said.name, f"{path} is the row of {other!r}; give this entry another name.")
    network = str(beside / said.network) if (beside / said.network).is_file() else said.network
    for setting, named in (("network", network), ("data", said.data)):
        ours = trust or not is_import_path(named)
        require(ours, f"{entry} runs {named} for its {setting}; read it, then pass --trust.")
    check_named(network, None, None, trust)
    images = load_data(said.data).require("test")
    require(said.images <= len(images), f"{said.data} has {len(images)} test images, and images is {said.images}.")
    images = images.head(said.images)
    adversaries = _adversaries(beside / said.adversaries, images) if said.adversaries else None
    model = opened(network, images, trust=trust).model
    x, y = (tensor.to(device_named(device)) for tensor in images.tensors())
    provenance = {
        "images": images.fingerprint(),
        "weights": fingerprint(model),
        **command_and_versions(),
        "device": x.device.type,
    }
    with progress_bar(f"judging {said.name}") as report:
        found = judged(
            said,
            model.to(x.device),
            x,
            y,
            adversaries,
            _certificate(said),
            effort,
            batch_size,
            report,
            data=images.source,
            provenance=provenance,
        )
    found.save(path)
    console.print(terminal(entry_table(found)))
    say(f"wrote {path}")


def _adversaries(file: Path, images: Images) -> Tensor:
    """The adversaries in a file, one for each image."""
    found = read_tensors(file, ("adversaries", "labels"), "adversaries; make them with `robustdeq export`")
    same = torch.equal(found["labels"], images.labels)
    require(same, f"the labels in {file} are not those of the first {len(images)} test images; keep their order.")
    return found["adversaries"]


def _certificate(said: Statement) -> Certificate | None:
    smoothing = Smoothing(sigma=said.sigma, estimation=said.draws)
    return {"lipschitz": Lipschitz(), "interval": IntervalBounds(), "smoothing": smoothing}.get(said.certificate)
