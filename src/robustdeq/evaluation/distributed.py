"""Evaluations over several processes, on one machine or many, with Lightning Fabric (torch.distributed).

Process r of W does the batches r, r + W, r + 2W, …: what a batch needs depends on no other batch, so the merged result
is that of one process. Each process commits what it has finished to a store of its own beside the first one's; at the
end, or when the evaluation goes on after an interruption, these are merged into the one store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path

import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from robustdeq.base.errors import InputError
from robustdeq.base.progress import Report
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.run import Evaluation
from robustdeq.evaluation.store import FILE, Run, Store, publish_manifest

_PATIENCE = timedelta(days=7)  # how long a process that is done waits for the slowest one


def launch(devices: int, nodes: int, device: str) -> Fabric:
    """Start the processes, or join them where torchrun or a cluster has started them; returns in each of them.

    Args:
        devices: how many processes on each machine.
        nodes: how many machines.
        device: `"cpu"` or `"cuda"`.

    Raises:
        InputError: there are not so many devices.
    """
    for name, count in (("devices", devices), ("nodes", nodes)):
        if count < 1:
            raise InputError(f"{name} is {count}; give 1 or more.")
    if device == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"devices is {devices}, and this machine has {torch.cuda.device_count()}; ask for fewer.")
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE) if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def evaluate(
    fabric: Fabric,
    build: Callable[[torch.device], Evaluation],
    folder: Path,
    report: Report | None = None,
    adversaries: Path | None = None,
) -> GridResult | None:
    """Do an evaluation with all processes, from where it stands.

    Args:
        fabric: the processes, launched.
        build: makes the evaluation on a device; the same in every process.
        folder: where the store is.
        report: called, in the first process, with the share of its own work that is done.
        adversaries: a folder for the adversaries; None keeps none.

    Returns:
        The result, in the first process; None in the others.

    Raises:
        InputError: as for `white_box_grid`.
    """
    evaluation = build(fabric.device)
    manifest = evaluation.manifest()
    rank, world = fabric.global_rank, fabric.world_size
    if rank == 0:
        with Store.create(folder / FILE, manifest) as store:
            publish_manifest(store)
            for part in sorted(folder.glob(_part("[0-9]*"))):
                with Store.create(part, manifest) as other:
                    store.absorb(other)
                part.unlink()
    with _together(fabric):
        fabric.barrier()
    with Store.create(folder / (FILE if rank == 0 else _part(rank)), manifest) as store:
        if rank > 0 and (folder / FILE).is_file():
            with Store.read(folder / FILE) as done:
                store.know(done)
        evaluation.run(store, evaluation.batches[rank::world], report, adversaries)
        if world > 1:
            parts: list[list[tuple[str, int, Run]]] = [[] for _ in range(world)]
            with _together(fabric):
                torch.distributed.all_gather_object(parts, list(store))
            if rank == 0:
                store.absorb(chain.from_iterable(parts))
            with _together(fabric):
                fabric.barrier()
    if rank > 0:
        (folder / _part(rank)).unlink()
        return None
    with Store.read(folder / FILE) as store:
        return assemble(store)


def _part(rank: int | str) -> str:
    return f"results-{rank}.sqlite"


@contextmanager
def _together(fabric: Fabric) -> Iterator[None]:
    """Communication with the other processes; where one of them has stopped, so does this one."""
    try:
        yield
    except RuntimeError as error:
        if fabric.global_rank > 0:
            raise SystemExit(2) from error
        raise InputError(
            "another process has stopped; what was finished is kept: run the same command again and it goes on."
        ) from error
