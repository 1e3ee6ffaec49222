"""Broyden's method alone, on a state of MDEQ-Large's size and on small ones, beside torchdeq's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from robustdeq.base.errors import InputError
from robustdeq.solvers import Broyden
from robustdeq.study.bench.benchmark import Bench, Claim, Measured, Setting, times_panel
from robustdeq.study.bench.peak_memory import peak_memory
from robustdeq.study.panel import bars
from robustdeq.study.stopwatch import Side, Timing, interleaved

DIMENSION, STEPS = 61_440, 30
SMALL = ((87, 60, 30, 1 / 0.3), (1_024, 100, 8, 1 / 0.2))
"""Smaller states: dimension, batch, steps, and how many times our time torchdeq's has to be."""
PROCESSES = 3
"""How many processes' peaks of memory are measured, of which the least counts: what an allocator holds back varies."""
SOLVES = 20
"""How many solves of a small state are timed at once, so that a round takes as long as one of a large state."""


Run = Callable[[partial[Tensor], Tensor, int], None]


def _damped_sine(shift: Tensor, z: Tensor) -> Tensor:
    return torch.sin(z).mul_(0.6).add_(shift)


@torch.no_grad()
def broyden(cell: partial[Tensor], z0: Tensor, steps: int) -> None:
    """Our Broyden's method, so many steps."""
    Broyden(max_steps=steps, tol=0).solve(cell, z0)


@torch.no_grad()
def _torchdeq(cell: partial[Tensor], z0: Tensor, steps: int) -> None:
    from torchdeq.solver.broyden import broyden_solver

    broyden_solver(cell, z0, max_iter=steps, tol=0, return_final=True)


def _bare(cell: partial[Tensor], z0: Tensor, steps: int) -> None:
    for _ in range(steps + 1):
        cell(z0)


def side(run: Run, batch: int, device: torch.device | str, dimension: int = DIMENSION, steps: int = STEPS) -> Side:
    """A run on a cell that costs next to nothing."""
    torch.manual_seed(0)
    shift = torch.randn(batch, dimension, device=device)
    return partial(run, partial(_damped_sine, shift), torch.zeros_like(shift), steps)


def repeated(run: Side, times: int) -> Side:
    """The same, so many times."""

    def repeat() -> None:
        for _ in range(times):
            run()

    return repeat


def _measure(setting: Setting) -> Measured:
    if find_spec("torchdeq") is None:
        raise InputError("torchdeq is not installed; `pip install torchdeq`, or run the other benchmarks.")
    batch, device = setting.batch, str(setting.device)
    runs = {"robustdeq": broyden, "torchdeq": _torchdeq, "bare cells": _bare}
    panels, claims = [], []
    for solves, dimension, count, steps, bound in (
        (1, DIMENSION, batch, STEPS, 4.0),
        *((SOLVES, *small) for small in SMALL),
    ):
        sides = {name: repeated(side(run, count, device, dimension, steps), solves) for name, run in runs.items()}
        times = interleaved(sides, setting.repetitions, setting.report)
        ours, theirs, cells = times.values()
        many = f"{solves} solves of " if solves > 1 else ""
        subject = f"{many}{steps} steps of Broyden's method on {dimension:,} × {count}"
        panels.append(times_panel(subject, times))
        times_over = f"{subject}, without the cell: torchdeq's time over ours"
        claims.append(Claim.of_times(times_over, _without(theirs, cells), _without(ours, cells), bound, True))
    peaks = [
        min(peak_memory(partial(side, run, batch, device)) for _ in range(PROCESSES)) / 2**20
        for run in (broyden, _torchdeq)
    ]
    title, sides = "peak resident memory of a solve in a process of its own", dict(zip(runs, peaks, strict=False))
    panels.append(bars(title, "MiB", "memory", sides, "Side"))
    over = f"{STEPS} steps of Broyden's method on {DIMENSION:,} × {batch}: our peak memory over torchdeq's"
    claims.append(Claim.of_counts(over, peaks[0], peaks[1], 0.4))
    return Measured(tuple(panels), tuple(claims))


def _without(side: Timing, cells: Timing) -> Timing:
    """What a side took beyond the evaluations of the cell, round by round."""
    return Timing([a - b for a, b in zip(side.seconds, cells.seconds, strict=True)])


PEERS = Bench("peers", "Broyden's method beside torchdeq's", _measure)
