"""Table 2: the unrolling-trained DEQ with few solver steps against the exact-trained one with many, under PGD-10."""

from __future__ import annotations

from robustdeq.study import published
from robustdeq.study.configurations import EXACT_50_50, UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import grid_panels, paper_part, printed_adjoints, printed_panel, white_box
from robustdeq.study.panel import Panels
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    for configuration, paper in {UNROLLED: published.UNROLLED, EXACT_50_50: published.EXACT_LARGE}.items():
        trained, title = study.trained(configuration), f"table2, {configuration.name}"
        yield from grid_panels(configuration.title, paper_part(white_box(study, trained, title)), paper)
        printed, _ = printed_adjoints(study, trained, f"{title}, B_n as printed")
        yield printed_panel(configuration.title, printed, paper)


TABLE_2 = Experiment(
    "table2",
    "Table 2",
    "White-box robustness of the unrolling-trained and the exact-trained DEQ",
    (UNROLLED, EXACT_50_50),
    _measure,
    "A defense is worth its weakest column; the ensemble defense of the unrolling-trained DEQ is worth most.",
)
