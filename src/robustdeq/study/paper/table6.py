"""Table 6: the standardly trained DEQ under all the paper's attacks and defenses."""

from __future__ import annotations

from robustdeq.study import published
from robustdeq.study.configurations import STANDARD
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import grid_panels, paper_part, white_box
from robustdeq.study.panel import Panels
from robustdeq.study.study import Study


def _measure(study: Study) -> Panels:
    result = white_box(study, study.trained(STANDARD), TABLE_6.name)
    yield from grid_panels("standardly trained DEQ", paper_part(result), published.STANDARD)


TABLE_6 = Experiment(
    "table6",
    "Table 6",
    "The standardly trained DEQ under all attacks and defenses",
    (STANDARD,),
    _measure,
    "All attacks defeat a DEQ without adversarial training, so that they can be relied on.",
)
