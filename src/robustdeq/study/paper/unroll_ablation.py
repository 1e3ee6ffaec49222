"""Appendix E.1: unrolled intermediates at all states n, with all steps k and dampings λ."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from robustdeq.deq.gradients import UnrolledIntermediate
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.study import Study, Trained


def under_unrolled(
    study: Study, trained: Trained, title: str, damping: float
) -> Bool[np.ndarray, "readings steps states samples"]:
    """Whether the early, then the final state withstand PGD on every unrolled intermediate state."""
    steps, states = study.estimators.steps, range(1, trained.deq.last_state)
    gradients = {f"z_{n}, k = {k}": UnrolledIntermediate(n, k, damping) for k in steps for n in states}
    defenses = {name: trained.defenses[name] for name in ("early", "final")}
    outcomes = study.climbed(title, trained.deq, defenses, gradients).per_sample
    return outcomes.reshape(2, len(steps), len(states), -1)


def unrolled_panels(study: Study, trained: Trained, title: str, damping: float) -> Panels:
    """Robustness of the early, then of the final state under PGD on every unrolled intermediate state.

    Args:
        study: the study.
        trained: the model.
        title: what is shown while it is measured.
        damping: λ.
    """
    outcomes = under_unrolled(study, trained, title, damping)
    for reading, outcome in zip((f"early state z_{trained.early}", "final state"), outcomes, strict=True):
        yield accuracies(
            f"robustness of the {reading}, λ = {damping:g}",
            (f"k = {k}" for k in study.estimators.steps),
            (f"z_{n}" for n in range(1, trained.deq.last_state)),
            outcome,
            row_axis="Unrolled steps",
            column_axis="Unrolled state",
            drawing=Drawing.CURVES,
        )


def _measure(study: Study) -> Panels:
    trained, title = study.trained(UNROLLED), UNROLL_ABLATION.name
    for damping in study.estimators.dampings:
        yield from unrolled_panels(study, trained, f"{title}, λ = {damping}", damping)


UNROLL_ABLATION = Experiment(
    "unroll-ablation",
    "Appendix E.1",
    "Unrolled intermediates at all states, with all steps and dampings",
    (UNROLLED,),
    _measure,
    "The gradient by unrolling z_1 makes the most vigorous attack on the early state.",
)
