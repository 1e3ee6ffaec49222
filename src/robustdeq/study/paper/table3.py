"""Table 3: the unrolling-trained DEQs under PGD-10 and AutoAttack.

AutoAttack climbs, and is judged on, the surrogate alone; the intermediate gradients are those that PGD found to hurt
the early-state defense most.
"""

from __future__ import annotations

from robustdeq.evaluation import Chosen
from robustdeq.study import published
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import Outcomes, grid_panels, paper_part, strongest, white_box
from robustdeq.study.panel import Panels
from robustdeq.study.study import Study, Trained

PAPERS = {
    "large": (published.UNROLLED, published.UNROLLED_AUTOATTACK),
    "xl": (published.XL, published.XL_AUTOATTACK),
}


def attacked_twice(study: Study, trained: Trained, title: str) -> tuple[Outcomes, Outcomes]:
    """The paper's grid under PGD and under AutoAttack: final, early and ensemble × `COLUMNS` × samples."""
    climbed = white_box(study, trained, f"{title}, PGD")
    auto = study.effort.autoattack(study.attack)
    surrogates = strongest(climbed, study.estimators, trained.deq.last_state)
    protocol = Chosen(study.attack, {label: (auto, gradient) for label, gradient in surrogates.items()})
    automatic = study.measure(f"{title}, AutoAttack", trained.deq, protocol, trained.defenses)
    return paper_part(climbed), paper_part(automatic)


def _measure(study: Study) -> Panels:
    for size, (_, papers) in zip(study.scale.sizes, PAPERS.items(), strict=False):
        outcomes = attacked_twice(study, study.trained(UNROLLED, size), f"table3, {size}")
        for attack, outcome, paper in zip((f"PGD-{study.attack.steps}", "AutoAttack"), outcomes, papers, strict=True):
            yield from grid_panels(f"DEQ-{size}, {attack}", outcome, paper)


TABLE_3 = Experiment(
    "table3",
    "Table 3",
    "The unrolling-trained DEQs under PGD-10 and AutoAttack",
    (UNROLLED,),
    _measure,
    "PGD-10 often hurts more than AutoAttack, which overfits to the surrogate it is judged on.",
    every_size=True,
)
