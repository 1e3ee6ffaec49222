"""Appendix F.2: the cost of each attack column, measured, and counted in evaluations of f."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from robustdeq.attacks import PGD
from robustdeq.deq import DEQ
from robustdeq.deq.gradients import Gradient, Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import RANGE, Drawing, Panel
from robustdeq.study.stopwatch import interleaved
from robustdeq.study.study import Study


def _measure(study: Study) -> tuple[Panel, ...]:
    trained = study.trained(UNROLLED)
    deq, attack = trained.deq, study.attack
    x, y = (tensor[: study.batch_size] for tensor in study.tensors())
    columns: dict[str, tuple[Gradient, ...]] = {
        column.label.capitalize(): column.gradients for column in study.estimators.candidates(deq.last_state)
    }
    columns |= {f"Through the solver, {name}": (ThroughSolver(defense),) for name, defense in trained.defenses.items()}
    counted = [
        attack.cost.gradients * sum(gradient.evaluations(deq) for gradient in column) for column in columns.values()
    ]
    sides = {name: _attack(deq, attack, gradients, x, y) for name, gradients in columns.items()}
    with evaluating(deq), study.progress(ATTACK_TIME.name) as report:
        timings = interleaved(sides, study.effort.repetitions, report)
    seconds = np.array([[t.median, min(t.seconds), max(t.seconds)] for t in timings.values()]) / len(x)
    return (
        Panel(
            f"evaluations of f per image, PGD-{attack.steps}, all candidates",
            "f",
            tuple(columns),
            ("evaluations",),
            np.array(counted, float)[:, None],
            row_axis="Attack",
            drawing=Drawing.BARS,
        ),
        Panel(
            f"time per image, PGD-{attack.steps}, all candidates, batch of {len(x)}",
            "ms",
            tuple(columns),
            ("time",),
            1e3 * seconds[:, :1],
            row_axis="Attack",
            low=1e3 * seconds[:, 1:2],
            high=1e3 * seconds[:, 2:],
            drawing=Drawing.BARS,
            interval=RANGE,
        ),
    )


def _attack(deq: DEQ, attack: PGD, gradients: tuple[Gradient, ...], x: Tensor, y: Tensor) -> Callable[[], None]:
    def run() -> None:
        for gradient in gradients:
            attack(Surrogate(deq, gradient), x, y)

    return run


ATTACK_TIME = Experiment(
    "attack-time",
    "Appendix F.2",
    "The cost of each attack",
    (UNROLLED,),
    _measure,
    legend="A product with the Jacobian counts as two evaluations of f.",
)
