"""Fig. 3a: attacks on each adjoint state u_n, read at the early and at the final state."""

from __future__ import annotations

import numpy as np

from robustdeq.study.configurations import EXACT_8_7, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import INVERSES
from robustdeq.study.panel import Drawing, Panel, Panels, accuracies
from robustdeq.study.paper.fig4 import states_under_adjoints
from robustdeq.study.study import Study

_COMPARED = (UNROLLED, EXACT_8_7)


def _measure(study: Study) -> Panels:
    for name, transpose in INVERSES.items():
        yield _panel(study, name, transpose)


def _panel(study: Study, name: str, transpose: bool) -> Panel:
    rows, adjoints = {}, range(0)
    for configuration in _COMPARED:
        trained = study.trained(configuration)
        title = f"{FIGURE_3A.name}, {configuration.name}, {name}"
        outcomes = states_under_adjoints(study, trained, title, transpose)
        adjoints = range(1, len(outcomes) + 1)
        for reading, n in (("early", trained.early), ("final", trained.deq.last_state)):
            assert n is not None
            rows[f"{configuration.title}, {reading} state z_{n}"] = outcomes[:, n - 1]
    return accuracies(
        f"robustness under PGD-{study.attack.steps} on adjoint states, {name}",
        rows,
        (f"u_{n}" for n in adjoints),
        np.stack([*rows.values()]),
        column_axis="Adjoint state",
        drawing=Drawing.CURVES,
    )


FIGURE_3A = Experiment(
    "fig3a",
    "Fig. 3a",
    "Attacks on each adjoint state",
    _COMPARED,
    _measure,
    "For the unrolling-trained DEQ later adjoint states hurt the final state more, and u_4 hurts the early state z_3 "
    "most; for the exact-trained one u_8 hurts both most.",
)
