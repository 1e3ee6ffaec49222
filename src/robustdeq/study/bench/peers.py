"""Broyden's method alone, on a state of MDEQ-Large's size, beside torchdeq's."""

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


def _measure(setting: Setting) -> Measured:
    if find_spec("torchdeq") is None:
        raise InputError("torchdeq is not installed; `pip install torchdeq`, or run the other benchmarks.")
    batch, device = setting.batch, str(setting.device)
    runs = {"robustdeq": broyden, "torchdeq": _torchdeq, f"{STEPS + 1} bare cells": _bare}
    times = interleaved(
        {name: side(run, batch, device) for name, run in runs.items()}, setting.repetitions, setting.report
    )
    ours, theirs, cells = times.values()
    peaks = [peak_memory(partial(side, run, batch, device)) / 2**20 for run in (broyden, _torchdeq)]
    subject = f"Broyden, {STEPS} steps on {DIMENSION:,} × {batch}, without the cell"
    title, sides = "peak resident memory of a solve in a process of its own", dict(zip(runs, peaks, strict=False))
    memory = bars(title, "MiB", "memory", sides, "Side")
    return Measured(
        (times_panel(f"{STEPS} steps of Broyden's method on {DIMENSION:,} × {batch}", times), memory),
        (
            Claim.of_times(
                f"{subject}: torchdeq's time over ours", _without(theirs, cells), _without(ours, cells), 4.0, True
            ),
            Claim.of_counts(f"{subject}: our peak memory over torchdeq's", peaks[0], peaks[1], 0.4),
        ),
    )


def _without(side: Timing, cells: Timing) -> Timing:
    """What a side took beyond the evaluations of the cell, round by round."""
    return Timing([a - b for a, b in zip(side.seconds, cells.seconds, strict=True)])


PEERS = Bench("peers", "Broyden's method beside torchdeq's", _measure)
