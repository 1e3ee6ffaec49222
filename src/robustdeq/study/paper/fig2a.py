"""Fig. 2a: the final state against the most robust intermediate one, under the ready-made PGD-10."""

from __future__ import annotations

import numpy as np

from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.paper.accumulation import ADVERSARIAL, states_under_ready_made
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    rows = []
    for configuration in ADVERSARIAL:
        _, attacked = states_under_ready_made(study, study.trained(configuration), f"fig2a, {configuration.name}")
        *intermediate, final = attacked
        rows.append([final, max(intermediate, key=np.sum)])
    yield accuracies(
        f"robustness under the ready-made PGD-{study.attack.steps}",
        (configuration.title for configuration in ADVERSARIAL),
        ("Final state", "Intermediate state"),
        np.array(rows),
        row_axis="Training configuration",
        drawing=Drawing.BARS,
    )


FIGURE_2A = Experiment(
    "fig2a",
    "Fig. 2a",
    "Gradient obfuscation: intermediate states look more robust than the final one",
    ADVERSARIAL,
    _measure,
    "The intermediate states always exhibit higher robustness than the final state under the ready-made attack.",
)
