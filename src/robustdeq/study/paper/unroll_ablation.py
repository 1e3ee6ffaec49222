"""Appendix E.1: unrolled intermediates at all states n, with all steps k and dampings λ."""

from __future__ import annotations

from itertools import chain

import numpy as np
from jaxtyping import Bool

from robustdeq.deq.gradients import UnrolledIntermediate
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panel, shares
from robustdeq.study.study import Study, Trained


def early_and_final_under_unrolled(
    study: Study, trained: Trained, title: str, damping: float
) -> tuple[Bool[np.ndarray, "readings steps states samples"], tuple[int, ...], range]:
    """Whether early and final state withstand PGD on every unrolled intermediate state.

    Args:
        study: the study.
        trained: the model.
        title: what is shown while it is measured.
        damping: λ.

    Returns:
        The outcomes of the early and of the final state, the steps k, and the states n.
    """
    steps, states = study.estimators.steps, range(1, trained.deq.last_state)
    gradients = {f"z_{n}, k = {k}": UnrolledIntermediate(n, k, damping) for k in steps for n in states}
    defenses = {name: trained.defenses[name] for name in ("early", "final")}
    result = study.climbed(title, trained.deq, defenses, gradients)
    return result.per_sample.reshape(2, len(steps), len(states), -1), steps, states


def unrolled_panels(study: Study, trained: Trained, title: str, damping: float) -> tuple[Panel, Panel]:
    """Robustness of the early and of the final state under PGD on every unrolled state; arguments as above."""
    outcomes, steps, states = early_and_final_under_unrolled(study, trained, title, damping)
    early, final = (
        Panel(
            f"robustness of the {reading}, λ = {damping:g}",
            "%",
            tuple(f"k = {k}" for k in steps),
            tuple(f"z_{n}" for n in states),
            **shares(outcome),
            row_axis="Unrolled steps",
            column_axis="Unrolled state",
            drawing=Drawing.CURVES,
        )
        for reading, outcome in zip((f"early state z_{trained.early}", "final state"), outcomes, strict=True)
    )
    return early, final


def _measure(study: Study) -> tuple[Panel, ...]:
    trained, title = study.trained(UNROLLED), UNROLL_ABLATION.name
    pairs = (unrolled_panels(study, trained, f"{title}, λ = {d}", d) for d in study.estimators.dampings)
    return tuple(chain.from_iterable(pairs))


UNROLL_ABLATION = Experiment(
    "unroll-ablation",
    "Appendix E.1",
    "Unrolled intermediates at all states, with all steps and dampings",
    (UNROLLED,),
    _measure,
    "The gradient by unrolling z_1 makes the most vigorous attack on the early state.",
)
