"""What each option of a training step is worth: images per second on this machine, and accuracy on digits.

`python -m benchmarks.training --size SIZE --batch BATCH` measures one step of PGD-AT (PGD-10, phantom gradient of 5
steps), each option alone against the plain step, interleaved in one run; then it trains `nano` on digits with and
without each, three seeds each, and attacks the held-out split with the ready-made PGD-10.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from robustdeq.attacks import PGD
from robustdeq.data import load
from robustdeq.files import write_text
from robustdeq.gradients import Phantom, ThroughSolver
from robustdeq.gradients.base import StateGradient
from robustdeq.measure import Side, interleaved
from robustdeq.models import MDEQ, mdeq
from robustdeq.models.deq import Execution
from robustdeq.training import AdversarialTraining, Optimization, Recipe, Schedule, SolverSteps, Validation, fit
from robustdeq.training.step import single_step

SEEDS = (0, 1, 2)
_DIGITS = PGD(eps=0.25, step_size=0.0625, steps=10)


@dataclass(frozen=True)
class Option:
    """A training step that differs from the plain one in one thing.

    Args:
        gradient: of the weights and the adversaries.
        warm_steps: solver steps from the fixed point of the iterate before.
        execution: how f is evaluated.
        solver_steps: of the phases; the speed is that of the first.
        averaging: the decay of the moving average of the weights.
    """

    gradient: StateGradient = field(default_factory=lambda: Phantom(5, 0.5))
    warm_steps: int | None = None
    execution: Execution = field(default_factory=Execution)
    solver_steps: SolverSteps = field(default_factory=SolverSteps)
    averaging: float = 0.0

    def objective(self, attack: PGD) -> AdversarialTraining:
        """The objective with this option."""
        return AdversarialTraining(attack, warm_steps=self.warm_steps)


OPTIONS: Mapping[str, Option] = {
    "plain (float32, solves anew)": Option(),
    "bfloat16 in f": Option(execution=Execution("bfloat16")),
    "warm start, 3 steps": Option(warm_steps=3),
    "warm start, 3 steps, and bfloat16": Option(warm_steps=3, execution=Execution("bfloat16")),
    "half the solver steps for 4/5 of the time": Option(solver_steps=SolverSteps((4, 8), (0.0, 0.8))),
    "all steps, whatever the tolerance": Option(solver_steps=SolverSteps(asynchronous=True)),
    "torch.compile": Option(execution=Execution(compiled=True)),
    "through the solver": Option(gradient=ThroughSolver()),
    "average of the weights, 0.99": Option(averaging=0.99),
}


def step(deq: MDEQ, option: Option, batch: int) -> Side:
    """One step of PGD-AT on random images."""
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    deq.gradient = option.gradient
    recipe = Recipe(option.objective(PGD()), solver_steps=option.solver_steps, execution=option.execution)
    return single_step(deq, recipe, x, y)


def accuracies(option: Option, seed: int) -> tuple[float, float]:
    """Clean and robust accuracy on the held-out digits of `nano` trained with an option, in percent."""
    splits = load("digits")
    torch.manual_seed(seed)
    deq = mdeq("nano", in_channels=1)
    deq.gradient = option.gradient
    recipe = Recipe(
        objective=replace(option.objective(replace(_DIGITS, step_size=0.125, steps=3)), warmup=0.3),
        optimization=Optimization(2e-2, 1e-4, warmup=0.25, clip_norm=1.0),
        schedule=Schedule(epochs=15, batch_size=32, validation_images=200, validations=1, seed=seed),
        augmentation=None,
        validation=Validation(_DIGITS, Phantom(5, 0.5)),
        solver_steps=option.solver_steps,
        execution=option.execution,
        averaging=option.averaging,
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(deq, splits, recipe, Path(folder))
        best = json.loads((Path(folder) / "training.json").read_text())["best"]
    return 100 * best["clean"], 100 * best["robust"]


def main(size: str = "large", batch: int = 16, repetitions: int = 3) -> None:
    """Measure, print the table, and write it to runs/bench-training.json.

    Args:
        size: of the MDEQ whose step is timed.
        batch: images per step.
        repetitions: how often each step is timed.
    """
    torch.manual_seed(0)
    sides = {name: step(mdeq(size), option, batch) for name, option in OPTIONS.items() if not option.averaging}
    times = interleaved(sides, repetitions)
    plain = next(iter(times.values()))
    table = Table(
        "option", "images/s", "times plain", "clean %", "PGD-10 %", title=f"one PGD-AT step of {size}, batch {batch}"
    )
    rows = []
    for name, option in OPTIONS.items():
        measured = [accuracies(option, seed) for seed in SEEDS]
        clean, robust = (list(column) for column in zip(*measured, strict=True))
        timing = times.get(name)
        rate = None if timing is None else batch / timing.median
        gain = None if timing is None else plain.median / timing.median
        rows.append({"option": name, "images_per_second": rate, "gain": gain, "clean": clean, "robust": robust})
        speed = ("", "") if rate is None or gain is None else (f"{rate:.2f}", f"{gain:.2f}")
        table.add_row(name, *speed, *(f"{statistics.mean(v):.1f} ({min(v):.1f}–{max(v):.1f})" for v in (clean, robust)))
    Console().print(table)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "seeds": SEEDS}
    record = {"size": size, "batch": batch, "repetitions": repetitions, "on": machine, "rows": rows}
    write_text(Path("runs/bench-training.json"), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    auto_cli(main)
