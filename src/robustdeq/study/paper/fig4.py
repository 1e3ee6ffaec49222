"""Fig. 4: attacks on each adjoint state u_n, read at every state: whether the adjoint follows the forward pass.

Eq. 10 prints B_n where the linear system that it solves has B_nᵀ; both are measured.
"""

from __future__ import annotations

from dataclasses import replace

from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import INVERSES, Outcomes, states_under
from robustdeq.study.panel import Panels, accuracies
from robustdeq.study.study import Study, Trained


def states_under_adjoints(study: Study, trained: Trained, title: str, transpose: bool = True) -> Outcomes:
    """Whether every state withstands PGD on every adjoint state: adjoint states × states × samples."""
    estimators = replace(study.estimators, transpose=transpose)
    gradients = {f"u_{n}": estimators.adjoint(n) for n in range(1, trained.deq.last_state + 1)}
    return states_under(study, trained, gradients, title)


def _measure(study: Study) -> Panels:
    trained = study.trained(UNROLLED)
    for name, transpose in INVERSES.items():
        outcomes = states_under_adjoints(study, trained, f"{FIGURE_4.name}, {name}", transpose)
        yield accuracies(
            f"robustness under PGD-{study.attack.steps} on adjoint states, {name}",
            (f"u_{n}" for n in range(1, len(outcomes) + 1)),
            trained.states,
            outcomes,
            row_axis="Adjoint state",
            column_axis="State",
        )


FIGURE_4 = Experiment(
    "fig4",
    "Fig. 4",
    "Alignment between the simultaneous adjoint and the forward pass",
    (UNROLLED,),
    _measure,
    "u_{n+1} always hurts z_n most: it depends on z_n directly.",
)
