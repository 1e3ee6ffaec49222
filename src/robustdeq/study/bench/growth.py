"""How time grows: exponents p of batch^p, N^p and dimension^p, fitted on logarithms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from robustdeq.attacks.losses import cross_entropy
from robustdeq.deq.gradients import Gradient, Phantom, SimultaneousAdjoint, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.bench.peers import broyden, side
from robustdeq.study.panel import Drawing, Panel
from robustdeq.study.stopwatch import Side, interleaved
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

    loss = partial(cross_entropy, y=y)
    sides: dict[str, Side] = {"solve": solve}
    return sides | {name: partial(gradient.input_gradient, longer, x, loss) for name, gradient in _GRADIENTS.items()}


def _measure(setting: Setting) -> Measured:
    deq = setting.model()
    x, y = setting.images(deq, setting.batch)
    batches = tuple(size for size in (1, 2, 4, 8, 16, 32, 64) if size <= setting.batch)
    largest = x[: batches[-1]], y[: batches[-1]]
    names, alone = ("solve", *_GRADIENTS), "solver alone, 8 steps"
    sides = {f"batch {b}, {name}": side for b in batches for name, side in _sides(deq, x[:b], y[:b], 8).items()}
    sides |= {f"steps {n}, {name}": side for n in _STEPS for name, side in _sides(deq, *largest, n).items()}
    sides |= {f"dimension {d}, {alone}": side(broyden, batches[-1], setting.device, d, steps=8) for d in _DIMENSIONS}
    with evaluating(deq):
        timed = interleaved(sides, setting.repetitions, setting.report)

    def exponent(kind: str, name: str, sizes: tuple[int, ...]) -> float:
        """The slope of log time over log size, by least squares."""
        times = [timed[side].median for size in sizes if (side := f"{kind} {size}, {name}") in timed]
        return float(np.polyfit(np.log(sizes), np.log(times), 1)[0]) if len(times) > 1 else np.nan

    kinds = {"batch": batches, "steps": _STEPS, "dimension": _DIMENSIONS}
    panel = Panel(
        f"fitted exponents of time, MDEQ-{setting.size}: batch {batches[0]} to {batches[-1]} at N = 8, "
        f"N = {_STEPS[0]} to {_STEPS[-1]} at batch {batches[-1]}, "
        f"state of {_DIMENSIONS[0]:,} to {_DIMENSIONS[-1]:,}",
        "exponent",
        (*names, alone),
        ("batch", "solver steps N", "dimension of the state"),
        np.array([[exponent(kind, name, sizes) for kind, sizes in kinds.items()] for name in (*names, alone)]),
        "What",
        drawing=Drawing.BARS,
    )
    return Measured((panel,))


GROWTH = Bench("growth", "How time grows with batch, solver steps and state", _measure)
