"""What each option is worth in images per second: one step of PGD-AT (PGD-10, phantom gradient of 5 steps)."""

from __future__ import annotations

import statistics

import numpy as np

from robustdeq.attacks import PGD
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.bench.options import OPTIONS, PLAIN, Option
from robustdeq.study.panel import RANGE, Drawing, Panel
from robustdeq.study.stopwatch import Side, interleaved
from robustdeq.training import Recipe
from robustdeq.training.step import single_step


def _step(option: Option, setting: Setting) -> Side:
    deq = setting.model()
    deq.gradient = option.gradient
    x, y = setting.images(deq, setting.batch)
    recipe = Recipe(option.objective(PGD()), solver_steps=option.solver_steps, execution=option.execution)
    return single_step(deq, recipe, x, y)


def _measure(setting: Setting) -> Measured:
    sides = {name: _step(option, setting) for name, option in OPTIONS.items() if not option.averaging}
    times = interleaved(sides, setting.repetitions, setting.report)
    plain = times[PLAIN].seconds
    rates, gains = [], []
    for timing in times.values():
        rates.append([pick(setting.batch / s for s in timing.seconds) for pick in (statistics.median, min, max)])
        ratios = [a / b for a, b in zip(plain, timing.seconds, strict=True)]
        gains.append([pick(ratios) for pick in (statistics.median, min, max)])
    title = f"one step of PGD-AT, MDEQ-{setting.size}, batch {setting.batch}, random weights and images"
    return Measured(
        tuple(
            Panel(
                f"{title}: {what}",
                unit,
                tuple(sides),
                ("median",),
                numbers[:, :1],
                row_axis="Option",
                low=numbers[:, 1:2],
                high=numbers[:, 2:],
                drawing=Drawing.BARS,
                interval=RANGE,
            )
            for what, unit, numbers in (
                ("speed", "images/s", np.array(rates)),
                ("over plain", "times", np.array(gains)),
            )
        )
    )


TRAINING = Bench("training", "The options of a training step", _measure)
