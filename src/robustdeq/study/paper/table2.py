"""Table 2: the unrolling-trained DEQ with few solver steps against the exact-trained one with many, under PGD-10."""

from __future__ import annotations

from robustdeq.study import published
from robustdeq.study.configurations import EXACT_50_50, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import COLUMNS, DEFENSES, paper_part, white_box
from robustdeq.study.panel import Panel, shares
from robustdeq.study.study import Study


def _measure(study: Study) -> tuple[Panel, ...]:
    papers = {UNROLLED: published.UNROLLED, EXACT_50_50: published.EXACT_LARGE}
    return tuple(
        Panel(
            configuration.title,
            "%",
            DEFENSES,
            COLUMNS,
            **shares(paper_part(white_box(study, study.trained(configuration), f"table2, {configuration.name}"))),
            row_axis="Defense",
            column_axis="Attack",
            paper=paper,
        )
        for configuration, paper in papers.items()
    )


TABLE_2 = Experiment(
    "table2",
    "Table 2",
    "White-box robustness of the unrolling-trained and the exact-trained DEQ",
    (UNROLLED, EXACT_50_50),
    _measure,
    "A defense is worth its weakest column; the ensemble defense of the unrolling-trained DEQ is worth most.",
)
