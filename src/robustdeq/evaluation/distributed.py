"""Evaluations over several processes, on one machine or many, which torchrun starts and Lightning Fabric connects.

Process r of W does the batches r, r + W, r + 2W, …: what a batch needs depends on no other batch, so the merged result
is that of one process. Each process commits what it has finished to a store of its own beside the first one's; at the
end, or when the evaluation goes on after an interruption, these are merged into the one store.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed

from robustdeq.base.extras import extra
from robustdeq.base.processes import check_devices, check_world, together
from robustdeq.base.progress import Report
from robustdeq.evaluation.assemble import assemble
from robustdeq.evaluation.job import Job
from robustdeq.evaluation.result import GridResult
from robustdeq.evaluation.store import FILE, Finished, Numbers, Store, part_name

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Part = tuple[list[tuple[str, int, Finished]], dict[tuple[str, int], Numbers]]
"""What one process has finished, and noted."""

_PATIENCE = timedelta(days=7)  # how long a process that is done waits for the slowest one


def launch(devices: int, nodes: int, device: str) -> Fabric | None:
    """Join the processes that torchrun has started, each of which calls this.

    Args:
        devices: how many processes on each machine.
        nodes: how many machines.
        device: `"cpu"` or `"cuda"`.

    Returns:
        The processes; None where there is only this one.

    Raises:
        InputError: there are not so many devices, or processes.
    """
    check_devices(device, devices, nodes)
    check_world(devices, nodes)
    if devices * nodes == 1:
        return None
    with extra("train"):
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def share(
    fabric: Fabric, job: Job, folder: Path, report: Report | None = None, adversaries: Path | None = None
) -> GridResult:
    """Do a job with all processes, each of which calls this, from where it stands, and put its outcomes together.

    Args:
        fabric: the processes, launched.
        job: the same in every process.
        folder: where the store is.
        report: as for `measure`, about the work of the first process.
        adversaries: a folder for the adversaries; None keeps none.
    """
    manifest, rank, world = job.manifest(), fabric.global_rank, fabric.world_size
    if rank == 0:
        Store.begin(folder, manifest).close()
    with together():
        fabric.barrier()
    with Store.create(folder / (FILE if rank == 0 else part_name(rank)), manifest) as store:
        if rank > 0 and (folder / FILE).is_file():
            with Store.read(folder / FILE) as done:
                store.know(done)
        job.run(store, job.batches[rank::world], report, adversaries)
        parts: list[Part] = [([], {}) for _ in range(world)]
        result: list[GridResult | None] = [None]
        with together():
            torch.distributed.all_gather_object(parts, (list(store), store.notes))
        if rank == 0:
            for runs, notes in parts:
                store.absorb(runs, notes)
            result = [assemble(store)]
        with together():
            torch.distributed.broadcast_object_list(result)
    if rank > 0:
        (folder / part_name(rank)).unlink()
    (found,) = result
    assert found is not None
    return found
