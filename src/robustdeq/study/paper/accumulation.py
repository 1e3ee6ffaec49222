"""Appendix C: accuracy of every state under the ready-made attack, for every way of training.

The ready-made attack climbs the gradient that the model is trained with, with its own backward steps. Robustness that
grows towards the intermediate states is obfuscation: the ready-made attack does not reach them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from robustdeq.deq.gradients import own_gradient
from robustdeq.study.configurations import EXACT_8_7, EXACT_18_20, EXACT_50_50, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.study import Study, Trained

ADVERSARIAL = (EXACT_8_7, EXACT_18_20, EXACT_50_50, UNROLLED)


def states_under_ready_made(
    study: Study, trained: Trained, title: str
) -> tuple[Bool[np.ndarray, "states samples"], Bool[np.ndarray, "states samples"]]:
    """Whether every state classifies each sample correctly, clean and under PGD by the model's own gradient."""
    gradients = {"ready-made": own_gradient(trained.deq)}
    result = study.climbed(title, trained.deq, trained.states, gradients)
    return result.clean, result.per_sample[:, 0]


def _measure(study: Study) -> Panels:
    for configuration in ADVERSARIAL:
        trained = study.trained(configuration)
        yield accuracies(
            configuration.title,
            ("Clean", f"Ready-made PGD-{study.attack.steps}"),
            trained.states,
            np.stack(states_under_ready_made(study, trained, f"{ACCUMULATION.name}, {configuration.name}")),
            column_axis="State",
            drawing=Drawing.CURVES,
        )


ACCUMULATION = Experiment(
    "accumulation",
    "Appendix C",
    "Accuracy of every state under the ready-made attack",
    ADVERSARIAL,
    _measure,
    "Intermediate states withstand the ready-made attack better than the final state: its gradients are not theirs.",
)
