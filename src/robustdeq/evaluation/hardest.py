"""One image in the place of each that was attacked: an adversary that breaks the model, where one was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustdeq.base.errors import require
from robustdeq.base.files import replace_with
from robustdeq.base.shapes import Labels, Pixels
from robustdeq.base.tensors import read_tensors, write_tensors
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.column import Role
from robustdeq.evaluation.job import ADVERSARIES, CLEAN, adversaries_file
from robustdeq.evaluation.store import FILE, Store

SUFFIXES = (".pt", ".safetensors")


def hardest(folder: str | Path) -> tuple[Pixels, Labels]:
    """Of each image what the first row gets wrong, itself or an adversary, or an adversary where it gets all right.

    Args:
        folder: of an evaluation that kept its adversaries.

    Returns:
        The adversaries in the order of the images, and the labels of those.

    Raises:
        InputError: it is not finished, or kept no adversaries.
    """
    folder = Path(folder)
    require((folder / FILE).is_file(), f"{folder} holds no store of an evaluation; give the folder of one.")
    with Store.read(folder / FILE) as store:
        assemble(store)
        counting = [column for column in store.manifest["columns"] if Role(column["role"]).counts]
        keys = [attempt["key"] for column in counting for attempt in column["attempts"]]
        batches = [_of_batch(store, keys, batch, folder / ADVERSARIES) for batch in range(store.manifest["batches"])]
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def _of_batch(store: Store, keys: list[str], batch: int, kept: Path) -> tuple[Tensor, Tensor]:
    made = [(key, run.outcome.standing[0]) for key in (CLEAN, *keys) if (run := store.get(key, batch)) is not None]
    x, y = _read(adversaries_file(kept, keys[0], batch))
    standing = np.ones(len(y), dtype=bool)
    for key, stands in made:
        broken = torch.from_numpy(np.flatnonzero(standing & ~stands))
        if len(broken):
            x[broken] = _read(adversaries_file(kept, key, batch))[0][broken]
        standing = standing & stands
    return x, y


def _read(file: Path) -> tuple[Tensor, Tensor]:
    require(file.is_file(), f"there is no {file}; evaluate with --save_adversaries, and it is made.")
    found = read_tensors(file, ("adversaries", "labels"), "adversaries")
    return found["adversaries"], found["labels"]


def save_hardest(folder: Path, path: Path) -> None:
    """Write what `hardest` finds, whole or not at all.

    Args:
        folder: of the evaluation.
        path: `.pt`, the adversaries alone, as RobustBench asks for them; or `.safetensors`, with their labels.
    """
    x, y = hardest(folder)
    if path.suffix == ".pt":
        replace_with(path, lambda temporary: torch.save(x, temporary))
    else:
        write_tensors(path, {"adversaries": x, "labels": y}, {})
