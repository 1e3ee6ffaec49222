"""Accuracy against ε, for every defense, under the ready-made attack and through the solver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustdeq.deq.gradients import Gradient, ThroughSolver
from robustdeq.evaluation import Chosen
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.study import Study

_MULTIPLES = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)


def _measure(study: Study) -> Panels:
    trained, attack = study.trained(UNROLLED), study.attack
    gradients: dict[str, Gradient] = {"ready-made": study.estimators.final}
    gradients |= {name: ThroughSolver(defense) for name, defense in trained.defenses.items()}
    scaled = {
        times: replace(attack, eps=times * attack.eps, step_size=times * attack.step_size) for times in _MULTIPLES
    }
    results = [
        study.measure(f"{EPSILON_CURVE.name}, ε × {times}", trained.deq, Chosen(climbing), trained.defenses, gradients)
        for times, climbing in scaled.items()
    ]
    found = np.stack([result.per_sample for result in results])
    outcomes = {}
    for i, name in enumerate(trained.defenses):
        for how, chosen in (("ready-made", 0), ("through the solver", 1 + i)):
            curve = np.concatenate([results[0].clean[i, None], found[:, i, chosen]])
            outcomes[f"{name.capitalize()}, {how}"] = curve
    yield accuracies(
        f"accuracy under PGD-{attack.steps}, by ε ({attack.norm})",
        outcomes,
        (f"{multiple * attack.eps:.4g}" for multiple in (0.0, *_MULTIPLES)),
        np.stack([*outcomes.values()]),
        row_axis="Defense, attack",
        column_axis="ε",
        drawing=Drawing.CURVES,
    )


EPSILON_CURVE = Experiment(
    "epsilon-curve",
    BEYOND,
    "Accuracy against ε",
    (UNROLLED,),
    _measure,
)
