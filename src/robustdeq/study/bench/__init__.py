"""Speed and memory as ratios: every side of a comparison is measured in one run, on the same inputs."""

from __future__ import annotations

from robustdeq.base.errors import look_up
from robustdeq.study.bench.accuracy import ACCURACY
from robustdeq.study.bench.benchmark import Bench, BenchResult, Claim, Measured, Setting, run
from robustdeq.study.bench.freezing import FREEZING
from robustdeq.study.bench.gradient_cost import GRADIENTS
from robustdeq.study.bench.grid import GRID
from robustdeq.study.bench.growth import GROWTH
from robustdeq.study.bench.peers import PEERS
from robustdeq.study.bench.profile import PROFILE
from robustdeq.study.bench.solve_speed import SOLVE
from robustdeq.study.bench.strict import STRICT
from robustdeq.study.bench.throughput import THROUGHPUT
from robustdeq.study.bench.training import TRAINING

BENCHES = {
    bench.name: bench
    for bench in (SOLVE, PEERS, PROFILE, GRADIENTS, GRID, STRICT, FREEZING, GROWTH, THROUGHPUT, TRAINING, ACCURACY)
}


def bench_named(name: str) -> Bench:
    """The benchmark of that name; raises `InputError`, with the nearest one, where there is none."""
    return look_up("benchmark", name, BENCHES)


__all__ = ["BENCHES", "Bench", "BenchResult", "Claim", "Measured", "Setting", "bench_named", "run"]
