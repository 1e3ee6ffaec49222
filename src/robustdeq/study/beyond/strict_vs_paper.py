"""Robust accuracy by protocol: what each way of measuring makes of the same model on the same images."""

from __future__ import annotations

import numpy as np

from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import BEYOND, Experiment
from robustdeq.study.grids import DEFENSES, strict
from robustdeq.study.panel import Drawing, Panel, shares
from robustdeq.study.study import Study


def _measure(study: Study) -> tuple[Panel, ...]:
    trained = study.trained(UNROLLED)
    result = strict(study, trained, STRICT_VS_PAPER.name)
    named = {name: result.per_sample[:, j] for j, name in enumerate(result.ids)}
    paper = result.per_sample[:, ~np.asarray(result.beyond_paper)]
    rows = []
    for i, row in enumerate(trained.defenses):
        rows.append(
            [
                result.clean[i],
                named["unrolled-final"][i],
                paper[i, paper[i].sum(axis=1).argmin()],
                named[f"through-{row}"][i],
                result.standing[i],
            ]
        )
    return (
        Panel(
            "accuracy by protocol",
            "%",
            DEFENSES,
            (
                "Clean",
                f"Ready-made PGD-{study.attack.steps}",
                "Paper's protocol",
                f"PGD-{study.attack.steps} through the solver",
                "Strict protocol",
            ),
            **shares(np.array(rows)),
            row_axis="Defense",
            column_axis="Protocol",
            drawing=Drawing.BARS,
        ),
    )


STRICT_VS_PAPER = Experiment(
    "strict-vs-paper",
    BEYOND,
    "Robust accuracy by protocol",
    (UNROLLED,),
    _measure,
)
