"""How time grows: exponents p of batch^p, N^p and dimension^p, fitted on logarithms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustdeq.deq.gradients import Gradient, Phantom, SimultaneousAdjoint, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.solvers import Broyden
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.panel import Drawing, Panel
from robustdeq.study.stopwatch import Side, Timing, interleaved
from robustdeq.zoo import MDEQ

_GRADIENTS: Mapping[str, Gradient] = {
    "phantom gradient, 5 steps": Phantom(5, 0.5),
    "simultaneous adjoint": SimultaneousAdjoint(),
    "through the solver": ThroughSolver(),
}
_STEPS = (4, 8, 16, 32)
_DIMENSIONS = (15_360, 61_440, 245_760)


def _sides(deq: MDEQ, x: Tensor, y: Tensor, steps: int) -> dict[str, Side]:
    longer = deq.with_settings(solver=replace(deq.solver, max_steps=steps, tol=0.0))

    def solve() -> None:
        with torch.no_grad():
            longer.solve(x)

    def differentiate(gradient: Gradient) -> Side:
        def run() -> None:
            gradient.input_gradient(longer, x, lambda logits: F.cross_entropy(logits, y, reduction="none"))

        return run

    return {"solve": solve} | {name: differentiate(gradient) for name, gradient in _GRADIENTS.items()}


def _alone(dimension: int, batch: int, device: torch.device) -> Side:
    """Broyden's method on a cell that costs next to nothing."""
    z0 = torch.zeros(batch, dimension, device=device)
    shift = torch.randn_like(z0)

    def cell(z: Tensor) -> Tensor:
        return torch.sin(z).mul_(0.6).add_(shift)

    def run() -> None:
        with torch.no_grad():
            Broyden(max_steps=8, tol=0.0).solve(cell, z0)

    return run


def exponent(sizes: tuple[int, ...], times: list[Timing]) -> float:
    """The slope of log time over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log([timing.median for timing in times]), 1)[0])


def _measure(setting: Setting) -> Measured:
    deq = setting.model()
    x, y = setting.images(deq, setting.batch)
    batches = tuple(size for size in (1, 2, 4, 8, 16, 32, 64) if size <= setting.batch)
    largest = x[: batches[-1]], y[: batches[-1]]
    names = ("solve", *_GRADIENTS)
    by_batch = {(name, b): side for b in batches for name, side in _sides(deq, x[:b], y[:b], 8).items()}
    by_steps = {(name, n): side for n in _STEPS for name, side in _sides(deq, *largest, n).items()}
    by_dimension = {d: _alone(d, batches[-1], setting.device) for d in _DIMENSIONS}
    all_sides: dict[object, Side] = {
        **{("batch", key): side for key, side in by_batch.items()},
        **{("steps", key): side for key, side in by_steps.items()},
        **{("dimension", key): side for key, side in by_dimension.items()},
    }
    with evaluating(deq):
        timed = interleaved({repr(key): side for key, side in all_sides.items()}, setting.repetitions, setting.report)

    def fit(kind: str, keys: list[object], sizes: tuple[int, ...]) -> float:
        return exponent(sizes, [timed[repr((kind, key))] for key in keys]) if len(sizes) > 1 else np.nan

    rows = [
        [fit("batch", [(name, b) for b in batches], batches), fit("steps", [(name, n) for n in _STEPS], _STEPS), np.nan]
        for name in names
    ]
    alone = [np.nan, np.nan, fit("dimension", list(_DIMENSIONS), _DIMENSIONS)]
    return Measured(
        (
            Panel(
                f"fitted exponents of time, MDEQ-{setting.size}: batch {batches[0]} to {batches[-1]} at N = 8, "
                f"N = {_STEPS[0]} to {_STEPS[-1]} at batch {batches[-1]}, "
                f"state of {_DIMENSIONS[0]:,} to {_DIMENSIONS[-1]:,}",
                "exponent",
                (*names, "solver alone, 8 steps"),
                ("batch", "solver steps N", "dimension of the state"),
                np.array([*rows, alone]),
                row_axis="What",
                drawing=Drawing.BARS,
            ),
        )
    )


GROWTH = Bench("growth", "How time grows with batch, solver steps and state", _measure)
