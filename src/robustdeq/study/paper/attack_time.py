"""Appendix F.2: the cost of each attack column, measured, and counted in evaluations of f."""

from __future__ import annotations

from functools import partial

from robustdeq.deq.gradients import Gradient, Surrogate, ThroughSolver
from robustdeq.deq.modes import evaluating
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Panels, bars
from robustdeq.study.stopwatch import interleaved
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    trained = study.trained(UNROLLED)
    deq, attack = trained.deq, study.attack
    x, y = (tensor[: study.batch_size] for tensor in study.tensors())
    columns: dict[str, tuple[Gradient, ...]] = {
        column.label.capitalize(): column.gradients for column in study.estimators.candidates(deq.last_state)
    }
    columns |= {f"Through the solver, {name}": (ThroughSolver(defense),) for name, defense in trained.defenses.items()}
    counted = {
        name: float(attack.cost.gradients * sum(gradient.evaluations(deq) for gradient in gradients))
        for name, gradients in columns.items()
    }
    yield bars(f"evaluations of f per image, PGD-{attack.steps}, all candidates", "f", "evaluations", counted, "Attack")

    def climb(gradients: tuple[Gradient, ...]) -> None:
        for gradient in gradients:
            attack(Surrogate(deq, gradient), x, y)

    sides = {name: partial(climb, gradients) for name, gradients in columns.items()}
    with evaluating(deq), study.progress(ATTACK_TIME.name) as report:
        timings = interleaved(sides, study.effort.repetitions, report)
    title = f"time per image, PGD-{attack.steps}, all candidates, batch of {len(x)}"
    seconds = {name: timing.seconds for name, timing in timings.items()}
    yield bars(title, "ms", "time", seconds, "Attack", scale=1e3 / len(x))


ATTACK_TIME = Experiment(
    "attack-time",
    "Appendix F.2",
    "The cost of each attack",
    (UNROLLED,),
    _measure,
    legend="A product with the Jacobian counts as two evaluations of f.",
)
