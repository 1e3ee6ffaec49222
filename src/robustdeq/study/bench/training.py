"""What each option is worth in images per second: one step of PGD-AT (PGD-10, phantom gradient of 5 steps)."""

from __future__ import annotations

from robustdeq.attacks import PGD
from robustdeq.study.bench.benchmark import Bench, Measured, Setting
from robustdeq.study.bench.options import OPTIONS, PLAIN, Option
from robustdeq.study.panel import bars
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
    rates = {name: [setting.batch / s for s in timing.seconds] for name, timing in times.items()}
    gains = {name: [a / b for a, b in zip(plain, timing.seconds, strict=True)] for name, timing in times.items()}
    title = f"one step of PGD-AT, MDEQ-{setting.size}, batch {setting.batch}, random weights and images"
    speed = bars(f"{title}: speed", "images/s", "median", rates, "Option")
    return Measured((speed, bars(f"{title}: over plain", "times", "median", gains, "Option")))


TRAINING = Bench("training", "The options of a training step", _measure)
