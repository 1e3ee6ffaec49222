"""§6.5, Tables 5 and 6: a DEQ without adversarial training falls to everything.

Which of its defenses is best, the text (the early state) and the caption of Table 6 (the ensemble) say differently.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from robustdeq.study.claims.statement import (
    WITHIN,
    Samples,
    Seed,
    Statement,
    best_defense,
    mildest,
    points,
    robustness,
)
from robustdeq.study.configurations import STANDARD
from robustdeq.study.grids import paper_grid
from robustdeq.study.paper.accumulation import states_under_ready_made
from robustdeq.study.paper.table5 import TABLE_5
from robustdeq.study.paper.table6 import TABLE_6

_BOUND = 0.12
"""The paper's mildest attack leaves 11.45 %, and its most robust state 2 %."""


def _no_state_stands(found: Seed) -> Samples:
    return points(_BOUND, mildest(found.of(states_under_ready_made, STANDARD)[1]))


def _no_defense_stands(found: Seed) -> Samples:
    return points(_BOUND, mildest(np.stack(robustness(found.of(paper_grid, STANDARD)))))


def _every_attack_defeats(found: Seed) -> Samples:
    attacked = found.of(paper_grid, STANDARD)[:, 1:]
    return points(_BOUND, mildest(attacked.reshape(-1, attacked.shape[-1])))


def _best(found: Seed, row: int) -> Samples:
    return best_defense(found.of(paper_grid, STANDARD), row)


VANILLA = (
    Statement(
        "the ready-made attack defeats every state of a vanilla DEQ",
        "§6.5",
        (TABLE_5,),
        "Of every state of the standardly trained DEQ the ready-made attack leaves less than 12 %.",
        (STANDARD,),
        _no_state_stands,
        WITHIN,
    ),
    Statement(
        "no defense of a vanilla DEQ stands",
        "§6.5",
        (TABLE_6,),
        "Of every defense of the standardly trained DEQ the strongest attack leaves less than 12 %.",
        (STANDARD,),
        _no_defense_stands,
        WITHIN,
    ),
    Statement(
        "every attack defeats a vanilla DEQ",
        "§6.5",
        (TABLE_6,),
        "Of no defense of the standardly trained DEQ even the mildest of the six attacks leaves 12 %.",
        (STANDARD,),
        _every_attack_defeats,
        WITHIN,
    ),
    *(
        Statement(
            f"the {name} is best: vanilla",
            section,
            (TABLE_6,),
            f"Each under its strongest attack, the {name} of the standardly trained DEQ beats the other two.",
            (STANDARD,),
            partial(_best, row=row),
        )
        for row, name, section in ((1, "early state", "§6.5"), (2, "ensemble defense", "caption"))
    ),
)
