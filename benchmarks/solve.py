"""What a solve costs beyond its evaluations of the cell, and beside torchdeq's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchdeq.solver.broyden import broyden_solver

from benchmarks.memory import peak_memory
from robustdeq.measure import Side, interleaved
from robustdeq.models import mdeq
from robustdeq.models.deq import bind, initial_state
from robustdeq.solvers import Broyden


@dataclass(frozen=True)
class Claim:
    """A ratio, the bound it is to keep, and what it was made of."""

    subject: str
    ratio: float
    bound: float
    at_least: bool
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the ratio keeps its bound."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


def solve_against_bare_cell(batch: int = 16, steps: int = 8, repetitions: int = 9) -> Claim:
    """MDEQ-Large, random weights: a whole solve against the evaluations of the cell that it makes."""
    torch.manual_seed(0)
    deq = mdeq("large").eval()
    solver = Broyden(max_steps=steps, tol=0)
    with torch.no_grad():
        u = deq.injection(torch.rand(batch, 3, 32, 32))
        cell, z0 = bind(deq.cell, u), initial_state(deq.cell, u)
        z = solver.solve(cell, z0).solution

        def bare() -> None:
            for _ in range(steps + 1):
                cell(z)

        times = interleaved({"solve": lambda: solver.solve(cell, z0), "bare": bare}, repetitions)
    solve, cells = times["solve"], times["bare"]
    return Claim(
        f"MDEQ-Large solve, N = {steps}, batch {batch}: time over {steps + 1} bare cells",
        solve.median / cells.median,
        1.25,
        at_least=False,
        detail=f"{solve} over {cells}",
    )


DIMENSION, BATCH, STEPS = 61_440, 16, 30


def _cheap_cell() -> tuple[partial[Tensor], Tensor]:
    torch.manual_seed(0)
    shift = torch.randn(BATCH, DIMENSION)
    return partial(_damped_sine, shift), torch.zeros(BATCH, DIMENSION)


def _damped_sine(shift: Tensor, z: Tensor) -> Tensor:
    return torch.sin(z).mul_(0.6).add_(shift)


@torch.no_grad()
def _solve_ours(cell: partial[Tensor], z0: Tensor) -> None:
    Broyden(max_steps=STEPS, tol=0).solve(cell, z0)


@torch.no_grad()
def _solve_torchdeq(cell: partial[Tensor], z0: Tensor) -> None:
    broyden_solver(cell, z0, max_iter=STEPS, tol=0, return_final=True)


def _bare(cell: partial[Tensor], z0: Tensor) -> None:
    for _ in range(STEPS + 1):
        cell(z0)


def _side_ours() -> Side:
    return partial(_solve_ours, *_cheap_cell())


def _side_torchdeq() -> Side:
    return partial(_solve_torchdeq, *_cheap_cell())


def broyden_against_torchdeq(repetitions: int = 7) -> list[Claim]:
    """Broyden's method alone on a state of MDEQ-Large's size: time without the cell's share, and peak memory."""
    cell, z0 = _cheap_cell()
    sides: dict[str, Side] = {
        "ours": partial(_solve_ours, cell, z0),
        "torchdeq": partial(_solve_torchdeq, cell, z0),
        "cell": partial(_bare, cell, z0),
    }
    times = interleaved(sides, repetitions)
    ours, theirs, bare = (times[name].median for name in ("ours", "torchdeq", "cell"))
    memory_ours, memory_theirs = peak_memory(_side_ours), peak_memory(_side_torchdeq)
    subject = f"Broyden, {STEPS} steps on {DIMENSION:,} × {BATCH}, solver only"
    return [
        Claim(
            f"{subject}: torchdeq's time over ours",
            (theirs - bare) / (ours - bare),
            3.0,
            at_least=True,
            detail=f"{1e3 * (theirs - bare):.0f} ms over {1e3 * (ours - bare):.0f} ms",
        ),
        Claim(
            f"{subject}: our peak memory over torchdeq's",
            memory_ours / memory_theirs,
            0.5,
            at_least=False,
            detail=f"{memory_ours / 2**20:.0f} MiB over {memory_theirs / 2**20:.0f} MiB",
        ),
    ]
