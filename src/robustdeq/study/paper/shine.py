"""Appendix D: attacks on the simultaneous adjoint against attacks on SHINE, read at every state."""

from __future__ import annotations

import numpy as np

from robustdeq.deq.gradients import SHINE, Ensemble, Gradient
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.paper.fig4 import states_under_adjoints
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    trained = study.trained(UNROLLED)
    adjoints = states_under_adjoints(study, trained, f"{APPENDIX_D.name}, adjoint states")
    gradients: dict[str, Gradient] = {"SHINE": SHINE(), "Adjoint ensemble": Ensemble(study.estimators.adjoint())}
    others = study.climbed(APPENDIX_D.name, trained.deq, trained.states, gradients)
    strongest = adjoints[adjoints.sum(axis=-1).argmin(axis=0), np.arange(adjoints.shape[1])]
    yield accuracies(
        f"robustness under PGD-{study.attack.steps}",
        (*gradients, f"Adjoint u_{len(adjoints)}", "Adjoint, strongest for each state"),
        trained.states,
        np.concatenate([np.swapaxes(others.per_sample, 0, 1), adjoints[-1:], strongest[None]]),
        row_axis="Gradient",
        column_axis="State",
        drawing=Drawing.CURVES,
    )


APPENDIX_D = Experiment(
    "shine",
    "Appendix D",
    "Attacks on the simultaneous adjoint and on SHINE",
    (UNROLLED,),
    _measure,
    "The paper compares both as attacks on intermediate states; the numbers stand in its appendix alone.",
)
