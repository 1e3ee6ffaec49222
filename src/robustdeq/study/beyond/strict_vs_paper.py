"""Robust accuracy by protocol: what each way of measuring makes of the same model on the same images."""

from __future__ import annotations

import numpy as np

from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.grids import DEFENSES, strict
from robustdeq.study.panel import Drawing, Panels, accuracies
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    trained, steps = study.trained(UNROLLED), study.attack.steps
    result = strict(study, trained, STRICT_VS_PAPER.name)
    named = {name: result.per_sample[:, j] for j, name in enumerate(result.ids)}
    paper = result.per_sample[:, ~np.asarray(result.beyond_paper)]
    outcomes = {
        "Clean": result.clean,
        f"Ready-made PGD-{steps}": result.per_sample[:, result.ready_made.index(True)],
        "Paper's protocol": [row[row.sum(axis=1).argmin()] for row in paper],
        f"PGD-{steps} through the solver": [named[f"through-{row}"][i] for i, row in enumerate(trained.defenses)],
        "Strict protocol": result.standing,
    }
    yield accuracies(
        "accuracy by protocol",
        DEFENSES,
        outcomes,
        np.stack([*outcomes.values()], axis=1),
        row_axis="Defense",
        column_axis="Protocol",
        drawing=Drawing.BARS,
    )


STRICT_VS_PAPER = Experiment(
    "strict-vs-paper",
    BEYOND,
    "Robust accuracy by protocol",
    (UNROLLED,),
    _measure,
)
