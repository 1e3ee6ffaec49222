"""Achieved FLOP/s of a solve, as a share of a large matrix product's on the same device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from robustdeq.deq.cell import Execution, Precision
from robustdeq.deq.modes import evaluating
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.panel import Drawing, Panel, bars
from robustdeq.study.stopwatch import Side, interleaved


def _flops(side: Side) -> int:
    with FlopCounterMode(display=False) as counter:
        side()
    return counter.get_total_flops()


def _measure(setting: Setting) -> Measured:
    deq = setting.model()
    x, _ = setting.images(deq, setting.batch)
    width = 8192 if setting.device.type == "cuda" else 2048

    def solve(precision: Precision) -> Side:
        timed = deq.with_settings(solver=replace(deq.solver, tol=0.0), execution=Execution(precision))

        def run() -> None:
            with torch.no_grad():
                timed.solution(x).trajectory.best_value.sum().item()

        return run

    def product(dtype: torch.dtype) -> Side:
        a = torch.randn(width, width, device=setting.device, dtype=dtype)
        return lambda: (a @ a).sum().item()

    kinds = {"float32": (Precision.FULL, torch.float32), "bfloat16": (Precision.BFLOAT16, torch.bfloat16)}
    sides: dict[str, Side] = {}
    for name, (precision, dtype) in kinds.items():
        sides |= {f"solve, {name}": solve(precision), f"matrix product, {name}": product(dtype)}
    with evaluating(deq):
        times = interleaved(sides, setting.repetitions, setting.report)
        rates = {name: _flops(side) / times[name].median / 1e9 for name, side in sides.items()}
    values = np.array([[rates[f"solve, {name}"], rates[f"matrix product, {name}"]] for name in kinds])
    shares = {name: 100 * solve / product for name, (solve, product) in zip(kinds, values.tolist(), strict=True)}
    title = f"MDEQ-{setting.size}, N = {deq.solver.max_steps}, batch {setting.batch}, beside {width} × {width} products"
    return Measured(
        (
            Panel(
                title,
                "GFLOP/s",
                tuple(kinds),
                ("solve", "matrix product"),
                values,
                row_axis="Precision of f",
                drawing=Drawing.BARS,
            ),
            bars("share of the matrix product's rate", "%", "solve", shares, "Precision of f"),
        )
    )


THROUGHPUT = Bench("throughput", "Operations per second of a solve, beside a matrix product's", _measure)
