"""Table 3: the unrolling-trained DEQs under PGD-10 and AutoAttack.

AutoAttack climbs, and is judged on, the surrogate alone; the intermediate gradients are those that PGD found to hurt
the early-state defense most.
"""

from __future__ import annotations

from collections.abc import Mapping

from robustdeq.deq.gradients import Gradient
from robustdeq.evaluation import Chosen, GridResult
from robustdeq.study import published
from robustdeq.study.configurations import UNROLLED
from robustdeq.study.experiment import Experiment
from robustdeq.study.grids import (
    Outcomes,
    grid_panels,
    paper_part,
    printed_adjoints,
    printed_panel,
    strongest,
    under,
    white_box,
)
from robustdeq.study.panel import Panels
from robustdeq.study.study import Study, Trained

PAPERS = {
    "large": (published.UNROLLED, published.UNROLLED_AUTOATTACK),
    "xl": (published.XL, published.XL_AUTOATTACK),
}


def attacked_twice(study: Study, trained: Trained, title: str) -> tuple[Outcomes, Outcomes]:
    """The paper's grid under PGD and under AutoAttack: final, early and ensemble × `COLUMNS` × samples."""
    climbed = white_box(study, trained, f"{title}, PGD")
    surrogates = strongest(climbed, study.estimators, trained.deq.last_state)
    return paper_part(climbed), paper_part(_automatic(study, trained, f"{title}, AutoAttack", surrogates))


def printed_twice(study: Study, trained: Trained, title: str) -> tuple[Outcomes, Outcomes]:
    """The adjoint columns with B_n as printed, under PGD and under AutoAttack."""
    climbed, surrogates = printed_adjoints(study, trained, f"{title}, PGD, B_n as printed")
    automatic = _automatic(study, trained, f"{title}, AutoAttack, B_n as printed", surrogates)
    return climbed, under(automatic, surrogates)


def _automatic(study: Study, trained: Trained, title: str, surrogates: Mapping[str, Gradient]) -> GridResult:
    auto = study.effort.autoattack(study.attack)
    protocol = Chosen(study.attack, {label: (auto, gradient) for label, gradient in surrogates.items()})
    return study.measure(title, trained.deq, protocol, trained.defenses)


def _measure(study: Study) -> Panels:
    attacks = (f"PGD-{study.attack.steps}", "AutoAttack")
    for size, (_, papers) in zip(study.scale.sizes, PAPERS.items(), strict=False):
        trained, title = study.trained(UNROLLED, size), f"table3, {size}"
        outcomes, printed = attacked_twice(study, trained, title), printed_twice(study, trained, title)
        for attack, outcome, adjoints, paper in zip(attacks, outcomes, printed, papers, strict=True):
            yield from grid_panels(f"DEQ-{size}, {attack}", outcome, paper)
            yield printed_panel(f"DEQ-{size}, {attack}", adjoints, paper)


TABLE_3 = Experiment(
    "table3",
    "Table 3",
    "The unrolling-trained DEQs under PGD-10 and AutoAttack",
    (UNROLLED,),
    _measure,
    "PGD-10 often hurts more than AutoAttack, which overfits to the surrogate it is judged on.",
    every_size=True,
)
