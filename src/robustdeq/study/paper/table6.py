"""Table 6: the standardly trained DEQ under all the paper's attacks and defenses."""

from __future__ import annotations

from robustdeq.study import published
from robustdeq.study.configurations import STANDARD
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import COLUMNS, DEFENSES, paper_part, white_box
from robustdeq.study.panel import Panel, shares
from robustdeq.study.study import Study


def _measure(study: Study) -> tuple[Panel, ...]:
    outcomes = paper_part(white_box(study, study.trained(STANDARD), TABLE_6.name))
    return (
        Panel(
            "standardly trained DEQ",
            "%",
            DEFENSES,
            COLUMNS,
            **shares(outcomes),
            row_axis="Defense",
            column_axis="Attack",
            paper=published.STANDARD,
        ),
    )


TABLE_6 = Experiment(
    "table6",
    "Table 6",
    "The standardly trained DEQ under all attacks and defenses",
    (STANDARD,),
    _measure,
    "All attacks defeat a DEQ without adversarial training, so that they can be relied on.",
)
