"""Table 5: every state of the standardly trained DEQ, clean and under the ready-made PGD-10."""

from __future__ import annotations

import numpy as np

from robustdeq.study import published
from robustdeq.study.configurations import STANDARD
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Panels, accuracies
from robustdeq.study.paper.accumulation import states_under_ready_made
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    trained = study.trained(STANDARD)
    clean, attacked = states_under_ready_made(study, trained, TABLE_5.name)
    yield accuracies(
        "standardly trained DEQ",
        ("Clean Acc.", "Robust Acc."),
        [*trained.states][:-1],
        np.stack([clean[:-1], attacked[:-1]]),
        column_axis="State",
        paper=published.STATES,
    )


TABLE_5 = Experiment(
    "table5",
    "Table 5",
    "The standardly trained DEQ under the ready-made PGD-10, state by state",
    (STANDARD,),
    _measure,
    "Without adversarial training the ready-made attack defeats every state: robustness does not accumulate.",
)
