"""A solve over the bare evaluations of the cell that it makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustdeq.deq.cell import bind, initial_state
from robustdeq.solvers import Broyden
from robustdeq.study.bench.benchmark import Bench, Claim, Measured, Setting, times_panel
from robustdeq.study.stopwatch import Side, interleaved

STEPS = (8, 18, 30, 50)
DENSE, DENSE_STEPS = 2048, (8, 30)
BOUNDS = {8: 1.10, 30: 1.15}


def bare(cell: Side, times: int) -> Side:
    """The cell alone, so many times."""

    def run() -> None:
        for _ in range(times):
            cell()

    return run


def _dense(setting: Setting) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A cell tanh(W z + u) on vectors, u, and zeros to begin with."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(DENSE, DENSE, generator=draws) * (0.5 / DENSE**0.5)
    u = torch.randn(setting.batch, DENSE, generator=draws)
    weight, u = weight.to(setting.device), u.to(setting.device)

    def cell(z: Tensor) -> Tensor:
        return torch.tanh(torch.addmm(u, z, weight))

    return cell, u, torch.zeros_like(u)


def _measure(setting: Setting) -> Measured:
    deq = setting.model().eval()
    x, _ = setting.images(deq, setting.batch)
    with torch.no_grad():
        u = deq.injection(x)
        cell, z0 = bind(deq.cell, u), initial_state(deq.cell, u)
        z = Broyden(max_steps=8, tol=0).solve(cell, z0).solution.view_as(z0)

        sides: dict[str, Side] = {}
        for steps in STEPS:
            sides[f"solve, N = {steps}"] = partial(Broyden(max_steps=steps, tol=0).solve, cell, z0)
            sides[f"{steps + 1} bare cells"] = bare(partial(cell, z), steps + 1)
        dense, shift, start = _dense(setting)
        for steps in DENSE_STEPS:
            sides[f"dense solve, N = {steps}"] = partial(Broyden(max_steps=steps, tol=0).solve, dense, start)
            sides[f"{steps + 1} dense cells"] = bare(partial(dense, shift), steps + 1)
        times = interleaved(sides, setting.repetitions, setting.report)
    dense_times = {name: times.pop(name) for name in [*times] if "dense" in name}
    claims = tuple(
        Claim.of_times(
            f"MDEQ-{setting.size}, N = {steps}, batch {setting.batch}: solve over its {steps + 1} bare cells",
            times[f"solve, N = {steps}"],
            times[f"{steps + 1} bare cells"],
            bound,
        )
        for steps, bound in BOUNDS.items()
    )
    return Measured(
        (
            times_panel(f"MDEQ-{setting.size}, batch {setting.batch}", times),
            times_panel(f"tanh(W z + u) in {DENSE:,} dimensions, batch {setting.batch}", dense_times),
        ),
        claims,
    )


SOLVE = Bench("solve", "A solve over the bare cells it evaluates", _measure)
