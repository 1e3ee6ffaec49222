"""Accuracy against the steps and restarts of PGD through the solver, for every defense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustdeq.evaluation import Chosen
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.study import Study

_MULTIPLES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def _measure(study: Study) -> Panels:
    trained, attack = study.trained(UNROLLED), study.attack
    runs = sorted({1, study.strict.restarts})
    lengths = sorted({max(round(multiple * attack.steps), 1) for multiple in _MULTIPLES})
    names, outcomes = [], []
    for name, defense in trained.defenses.items():
        attacks = {
            f"{steps} steps, {restarts} runs": (replace(attack, steps=steps, restarts=restarts), None)
            for restarts in runs
            for steps in lengths
        }
        title = f"{STEPS_CURVE.name}, {name}"
        result = study.measure(title, trained.deq, Chosen(attack, attacks), {name: defense})
        names += [f"{name.capitalize()}, {'1 run' if count == 1 else f'{count} runs'}" for count in runs]
        outcomes += list(result.per_sample[0].reshape(len(runs), len(lengths), -1))
    yield accuracies(
        f"accuracy under PGD through the solver, ε = {attack.eps:.4g} ({attack.norm})",
        names,
        map(str, lengths),
        np.stack(outcomes),
        row_axis="Defense, runs",
        column_axis="Steps",
        drawing=Drawing.CURVES,
    )


STEPS_CURVE = Experiment(
    "steps-curve",
    BEYOND,
    "Accuracy against the steps and restarts of PGD",
    (UNROLLED,),
    _measure,
)
