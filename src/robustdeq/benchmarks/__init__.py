"""Speed and memory as ratios: every side of a comparison is measured in one run, on the same inputs."""

from __future__ import annotations

from robustdeq.benchmarks.accuracy import ACCURACY
from robustdeq.benchmarks.bench import Bench, BenchResult, Claim, Measured, Setting, run
from robustdeq.benchmarks.freezing import FREEZING
from robustdeq.benchmarks.gradients import GRADIENTS
from robustdeq.benchmarks.grid import GRID
from robustdeq.benchmarks.growth import GROWTH
from robustdeq.benchmarks.peers import PEERS
from robustdeq.benchmarks.profile import PROFILE
from robustdeq.benchmarks.solve import SOLVE
from robustdeq.benchmarks.strict import STRICT
from robustdeq.benchmarks.throughput import THROUGHPUT
from robustdeq.benchmarks.training import TRAINING
from robustdeq.errors import InputError, hint

BENCHES = {
    bench.name: bench
    for bench in (SOLVE, PEERS, PROFILE, GRADIENTS, GRID, STRICT, FREEZING, GROWTH, THROUGHPUT, TRAINING, ACCURACY)
}


def bench_named(name: str) -> Bench:
    """The benchmark of that name; raises `InputError`, with the nearest one, where there is none."""
    if name in BENCHES:
        return BENCHES[name]
    meant = hint(name, BENCHES, f"choose one of {', '.join(BENCHES)}.")
    raise InputError(f"there is no benchmark {name!r}; {meant}")


__all__ = ["BENCHES", "Bench", "BenchResult", "Claim", "Measured", "Setting", "bench_named", "run"]
