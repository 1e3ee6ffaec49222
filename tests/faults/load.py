"""Load: ten thousand images through a store, eight readers beside a writer, ten million outcomes exported.

`make load` shows what it measures and writes it down; where the machine had other work, that is said beside the times.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from victims import WIDTH, Cell

import robustdeq as rd
from robustdeq import cli
from robustdeq.attacks import PGD
from robustdeq.base.files import write_text
from robustdeq.evaluation import Chosen, Estimators, Paper, Store
from robustdeq.evaluation.measure import measure, plan
from robustdeq.evaluation.store import FILE, Finished, Outcome
from robustdeq.gradients import Phantom
from robustdeq.solvers import Broyden

ATTACK = PGD(eps=0.1, step_size=0.1, steps=1)
READERS = 8


def network(pixels: int) -> rd.DEQ:
    """A model that costs next to nothing."""
    torch.manual_seed(0)
    injection = nn.Sequential(nn.Flatten(), nn.Linear(pixels, WIDTH))
    return rd.DEQ(injection, Cell(), nn.Linear(WIDTH, 10), Broyden(max_steps=2, tol=1e-3)).eval()


def images(n: int, *shape: int) -> tuple[Tensor, Tensor]:
    """So many random images, with labels."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(n, *shape, generator=draw), torch.randint(10, (n,), generator=draw)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def evaluated(n: int, folder: Path) -> dict[str, float]:
    """Evaluate so many images of CIFAR's shape, or see that this was done before; memory in bytes, time in seconds."""
    deq, (x, y) = network(3072), images(n, 3, 32, 32)
    before, begun, processor = peak(), time.perf_counter(), time.process_time()
    result = measure(deq, x, y, Paper(ATTACK, Estimators()), early=1, batch_size=128, folder=folder)
    return {
        "images_bytes": x.nbytes,
        "outcomes": int(result.per_sample.size + result.clean.size),
        "peak_before_bytes": before,
        "peak_bytes": peak(),
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time() - processor,
    }


def written_beside(readers: int, folder: Path, runs: int = 1500) -> dict[str, Any]:
    """Commit runs while others read the store again and again: reads made, reads refused, and the time of a commit."""
    fork = multiprocessing.get_context("fork")
    done, reads = fork.Event(), fork.SimpleQueue()
    manifest = {"settings": {}, "batches": runs}
    rng = np.random.default_rng(0)
    made = [Outcome(rng.random((3, 128)) < 0.5, rng.random((3, 128)) < 0.5, rng.random(128) < 0.5) for _ in range(runs)]
    with Store.create(folder / FILE, manifest):
        pass
    others = [fork.Process(target=_read, args=(folder / FILE, made, done, reads)) for _ in range(readers)]
    for other in others:
        other.start()
    times = []
    with Store.create(folder / FILE, manifest) as store:
        for batch, outcome in enumerate(made):
            begun = time.perf_counter()
            store.commit("attack", batch, Finished(outcome, 0.0))
            times.append(time.perf_counter() - begun)
    done.set()
    found = [reads.get() for _ in others]
    for other in others:
        other.join()
    return {
        "readers": readers,
        "commits": runs,
        "reads": sum(count for count, _ in found),
        "torn": sum(torn for _, torn in found),
        "seconds_of_a_commit_median": float(np.median(times)),
        "seconds_of_a_commit_longest": max(times),
    }


def _read(path: Path, made: list[Outcome], done: Event, reads: Any) -> None:
    """Read until the writer is done; one that is refused, or holds anything but the first of the runs, is torn."""
    count = torn = before = 0
    while not done.is_set():
        try:
            with Store.read(path) as store:
                found = list(store)
            whole = [batch for _, batch, _ in found] == [*range(len(found))] and len(found) >= before
            same = all(np.array_equal(run.outcome.standing, made[batch].standing) for _, batch, run in found)
            torn += not (whole and same)
            before = len(found)
        except rd.InputError:
            torn += 1
        count += 1
    reads.put((count, torn))


def stored(folder: Path, n: int, columns: int) -> int:
    """A finished store of made-up outcomes, on n images under so many attacks; how many outcomes it holds."""
    gradients = {f"phantom-{i}": Phantom(i + 1, 0.5) for i in range(columns)}
    job = plan(network(6), *images(n, 1, 2, 3), Chosen(ATTACK), None, gradients, early=1, batch_size=1000)
    rng, keys = np.random.default_rng(0), [a.key for column in job.columns for a in column.attempts]
    with Store.begin(folder, job.manifest()) as store:
        for key in ("clean", *keys):
            for batch in job.batches:
                standing = rng.random((len(job.rows), len(job.x[batch * 1000 : (batch + 1) * 1000]))) < 0.5
                store.commit(key, batch, Finished(Outcome(standing, ~standing & False, standing[0]), 0.0))
    return len(job.rows) * len(job.columns) * n


def exported(folder: Path, to: Path) -> dict[str, float]:
    """Export a finished evaluation; memory in bytes, time in seconds."""
    before, begun = peak(), time.perf_counter()
    cli.main(["export", str(folder), "--to", str(to)])
    return {
        "peak_before_bytes": before,
        "peak_bytes": peak(),
        "seconds": time.perf_counter() - begun,
        "bytes": to.stat().st_size,
    }


def apart(name: str, *given: object) -> dict[str, Any]:
    """What a function of this module measures in a process of its own."""
    command = [sys.executable, __file__, name, *map(str, given)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure all of it, show it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=[1_000, 10_000])
    parser.add_argument("--output", type=Path, default=Path("results/reliability/load.json"))
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        few, many = ({"images": n} | apart("evaluated", n, place / str(n)) for n in given.images)
        again = apart("evaluated", given.images[1], place / str(given.images[1]))
        size = (place / str(given.images[1]) / FILE).stat().st_size
        alone, beside = (written_beside(readers, place / f"{readers}-readers") for readers in (0, READERS))
        outcomes = stored(place / "wide", 100_000, 34)
        exports = {
            suffix: apart("exported", place / "wide", place / f"wide{suffix}") for suffix in (".parquet", ".csv")
        }
    found = {
        "command": " ".join(["python", "tests/faults/load.py", *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("robustdeq", "torch", "pyarrow")},
        "load_before": round(load, 2),
        "processors": os.cpu_count(),
        "measured_beside_other_jobs": load > 0.5,
        "few": few,
        "many": many,
        "growth_of_peak_bytes": many["peak_bytes"] - few["peak_bytes"],
        "growth_of_images_bytes": many["images_bytes"] - few["images_bytes"],
        "store_bytes": size,
        "resumed": again,
        "written_alone": alone,
        "written_beside_readers": beside,
        "exported_outcomes": outcomes,
        "exported": exports,
    }
    shown = Table("what", "measured", title="load")
    for what, value in {
        f"store of {given.images[1]} images": f"{size / 1e6:.1f} MB",
        f"growth of the peak from {given.images[0]} images": f"{found['growth_of_peak_bytes'] / 1e6:.0f} MB",
        "growth of the images themselves": f"{found['growth_of_images_bytes'] / 1e6:.0f} MB",
        "to resume the finished run": f"{again['seconds']:.2f} s, {again['processor_seconds']:.2f} s of the processor",
        f"reads by {READERS} readers beside a writer": f"{beside['reads']}, torn {beside['torn']}",
        "longest commit, alone and beside readers": " and ".join(
            f"{1000 * way['seconds_of_a_commit_longest']:.0f} ms" for way in (alone, beside)
        ),
        f"peak above the start, {outcomes} outcomes to": ", ".join(
            f"{suffix} {(way['peak_bytes'] - way['peak_before_bytes']) / 1e6:.0f} MB" for suffix, way in exports.items()
        ),
        "measured beside other jobs": "yes" if found["measured_beside_other_jobs"] else "no",
    }.items():
        shown.add_row(what, value)
    Console().print(shown)
    write_text(given.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["evaluated", n, folder]:
            print(json.dumps(evaluated(int(n), Path(folder))))
        case ["exported", folder, to]:
            print(json.dumps(exported(Path(folder), Path(to))))
        case _:
            main()
