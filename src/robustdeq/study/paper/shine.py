"""Appendix D: attacks on the simultaneous adjoint against attacks on SHINE, read at every state."""

from __future__ import annotations

import numpy as np

from robustdeq.deq.gradients import SHINE, Ensemble, Gradient
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import Outcomes, states_under
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.paper.fig4 import states_under_adjoints
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    trained, title = study.trained(UNROLLED), f"robustness under PGD-{study.attack.steps}"
    adjoints = states_under_adjoints(study, trained, f"{APPENDIX_D.name}, adjoint states")
    every = {f"SHINE z_{n}": SHINE(n) for n in range(1, trained.deq.last_state)}
    shared = states_under(study, trained, every, f"{APPENDIX_D.name}, SHINE at every state")
    gradients: dict[str, Gradient] = {"SHINE": SHINE(), "Adjoint ensemble": Ensemble(study.estimators.adjoint())}
    others = states_under(study, trained, gradients, APPENDIX_D.name)
    rows = {
        "SHINE": others[0],
        "SHINE, strongest for each state": _strongest(shared),
        "Adjoint ensemble": others[1],
        f"Adjoint u_{len(adjoints)}": adjoints[-1],
        "Adjoint, strongest for each state": _strongest(adjoints),
    }
    yield accuracies(
        title,
        rows,
        trained.states,
        np.stack([*rows.values()]),
        row_axis="Gradient",
        column_axis="State",
        drawing=Drawing.CURVES,
    )
    yield accuracies(
        f"{title} on SHINE at each state",
        (f"z_{n}" for n in range(1, len(shared) + 1)),
        trained.states,
        shared,
        row_axis="SHINE at",
        column_axis="State",
    )


def _strongest(outcomes: Outcomes) -> np.ndarray:
    """For each state the outcomes of the gradient that hurts it most."""
    return outcomes[outcomes.sum(axis=-1).argmin(axis=0), np.arange(outcomes.shape[1])]


APPENDIX_D = Experiment(
    "shine",
    "Appendix D",
    "Attacks on the simultaneous adjoint and on SHINE",
    (UNROLLED,),
    _measure,
    "The paper compares both as attacks on intermediate states; the numbers stand in its appendix alone.",
)
