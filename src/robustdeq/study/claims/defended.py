"""Tables 2–4: which attack and which defense is strongest, PGD against AutoAttack, and networks of the same size."""

from __future__ import annotations

from functools import partial

import numpy as np

from robustdeq.base.statistics import weakest
from robustdeq.study.claims.statement import (
    Outcomes,
    Samples,
    Seed,
    Statement,
    hurts_most,
    mildest,
    points,
)
from robustdeq.study.configurations import EXACT_8_7, EXACT_50_50, RESNET, UNROLLED, WIDE, Configuration
from robustdeq.study.grids import paper_grid
from robustdeq.study.paper.table2 import TABLE_2
from robustdeq.study.paper.table3 import TABLE_3, attacked_twice
from robustdeq.study.paper.table4 import TABLE_4, network

_FINAL, _EARLY, _ENSEMBLE = range(3)
_ADJOINT, _UNROLLED = slice(1, 4), slice(4, 7)
_ADJOINT_ENSEMBLE, _UNROLLED_FINAL, _UNROLLED_ENSEMBLE = 3, 4, 6
_COMPETITIVE = 10.0
"""By how many points a DEQ may be less robust than a network that it is competitive with; the paper's is 6.5 less."""


def _size(found: Seed, index: int) -> str:
    return found.study.scale.sizes[index]


def _row(found: Seed, row: int, configuration: Configuration = UNROLLED, size: int = 0) -> Outcomes:
    """One defense, clean and under the six columns."""
    return found.of(paper_grid, configuration, _size(found, size))[row]


def _unrolling_strongest(found: Seed, row: int) -> Samples:
    outcomes = _row(found, row)
    return points(weakest(outcomes[_ADJOINT]), weakest(outcomes[_UNROLLED]))


def _adjoint_strongest(found: Seed) -> Samples:
    outcomes = _row(found, _EARLY, EXACT_50_50)
    return points(weakest(outcomes[_UNROLLED]), weakest(outcomes[_ADJOINT]))


def _strongest_on_ensemble(found: Seed, column: int, size: int) -> Samples:
    return hurts_most(_row(found, _ENSEMBLE, size=size)[1:], column - 1)


def _ensemble_best(found: Seed, configuration: Configuration, size: int) -> Samples:
    rows = [weakest(_row(found, row, configuration, size)[1:]) for row in (_FINAL, _EARLY, _ENSEMBLE)]
    return points(rows[_ENSEMBLE], mildest(np.stack(rows[:_ENSEMBLE])))


def _balanced(found: Seed) -> Samples:
    spreads = [points(mildest(row[1:]), weakest(row[1:])) for row in (_row(found, _FINAL), _row(found, _ENSEMBLE))]
    return spreads[0] - spreads[1]


def _early_looks_better(found: Seed) -> Samples:
    return points(_row(found, _EARLY)[_UNROLLED_FINAL], _row(found, _FINAL)[_UNROLLED_FINAL])


def _before_exact(found: Seed) -> Samples:
    return points(weakest(_row(found, _ENSEMBLE)[1:]), weakest(_row(found, _ENSEMBLE, EXACT_50_50)[1:]))


def _before_few_exact(found: Seed) -> Samples:
    return points(weakest(_row(found, _FINAL)[1:]), weakest(_row(found, _FINAL, EXACT_8_7)[1:]))


def _ensembles_hurt_early(found: Seed) -> Samples:
    columns = [_ADJOINT_ENSEMBLE, _UNROLLED_ENSEMBLE]
    return points(_row(found, _FINAL)[columns], _row(found, _EARLY)[columns]).mean(axis=0)


def _pgd_hurts_more(found: Seed) -> Samples:
    climbed, automatic = found.of(attacked_twice, UNROLLED, _size(found, 0))
    return points(automatic[:, 1:], climbed[:, 1:]).mean(axis=(0, 1))


def _autoattack_hurts_networks_more(found: Seed) -> Samples:
    _, climbed, automatic = found.of(network, RESNET)
    return points(climbed, automatic)


def _competitive(found: Seed, rival: Configuration, size: int, attack: int) -> Samples:
    outcomes = found.of(attacked_twice, UNROLLED, _size(found, size))[attack]
    return points(weakest(outcomes[_ENSEMBLE, 1:]), found.of(network, rival)[1 + attack]) + _COMPETITIVE


DEFENSES = (
    *(
        Statement(
            f"unrolling intermediates hurts the {name} state most",
            "§6.2",
            (TABLE_2,),
            f"Against the {name}-state defense of the unrolling-trained DEQ the strongest unrolled attack is stronger "
            "than the strongest simultaneous adjoint.",
            (UNROLLED,),
            partial(_unrolling_strongest, row=row),
        )
        for name, row in (("final", _FINAL), ("early", _EARLY))
    ),
    Statement(
        "the adjoint hurts the early state of exact (50/50) most",
        "§6.2",
        (TABLE_2,),
        "The simultaneous adjoint attacks the exact-trained DEQ (50/50) well, its early state better than unrolling.",
        (EXACT_50_50,),
        _adjoint_strongest,
    ),
    Statement(
        "the ensemble attack hurts the ensemble defense most",
        "§6.2",
        (TABLE_2, TABLE_3),
        "Against the ensemble defense of the unrolling-trained DEQ the unrolled gradient ensemble is the strongest.",
        (UNROLLED,),
        partial(_strongest_on_ensemble, column=_UNROLLED_ENSEMBLE, size=0),
    ),
    Statement(
        "in the larger DEQ the final gradient does",
        "§6.3",
        (TABLE_3,),
        "Against the ensemble defense of the larger DEQ the unrolled gradient at the final state is the strongest.",
        (UNROLLED,),
        partial(_strongest_on_ensemble, column=_UNROLLED_FINAL, size=1),
        sizes=2,
    ),
    Statement(
        "the ensemble defense is best: unrolled",
        "§6.2",
        (TABLE_2, TABLE_3),
        "Each under its strongest attack, the ensemble defense of the unrolling-trained DEQ beats the other two.",
        (UNROLLED,),
        partial(_ensemble_best, configuration=UNROLLED, size=0),
    ),
    Statement(
        "the ensemble defense is best: exact (50/50)",
        "§6.2",
        (TABLE_2,),
        "Each under its strongest attack, the ensemble defense of the exact-trained DEQ (50/50) beats the other two.",
        (EXACT_50_50,),
        partial(_ensemble_best, configuration=EXACT_50_50, size=0),
    ),
    Statement(
        "the ensemble defense is best: larger DEQ",
        "§6.3",
        (TABLE_3,),
        "Each under its strongest attack, the ensemble defense of the larger DEQ beats the other two.",
        (UNROLLED,),
        partial(_ensemble_best, configuration=UNROLLED, size=1),
        sizes=2,
    ),
    Statement(
        "the ensemble defense balances the attacks",
        "§6.2",
        (TABLE_2,),
        "From the mildest to the strongest attack the accuracy of the ensemble defense falls less than that of the "
        "final state.",
        (UNROLLED,),
        _balanced,
    ),
    Statement(
        "the early state withstands the ready-made attack best",
        "§5.2",
        (TABLE_2,),
        "The early state of the unrolling-trained DEQ withstands the ready-made attack better than the final one.",
        (UNROLLED,),
        _early_looks_better,
    ),
    Statement(
        "unrolled (8/7) is more robust than exact (50/50)",
        "§6.2",
        (TABLE_2,),
        "Under the strongest attack on its ensemble defense the unrolling-trained DEQ (8/7) is more robust than the "
        "exact-trained one (50/50).",
        (UNROLLED, EXACT_50_50),
        _before_exact,
    ),
    Statement(
        "unrolled (8/7) is more robust than exact (8/7)",
        "§6.2, footnote 3",
        (),
        "Under the strongest attack on its final state the unrolling-trained DEQ (8/7) is more robust than the "
        "exact-trained one with as few iterations.",
        (UNROLLED, EXACT_8_7),
        _before_few_exact,
    ),
    Statement(
        "gradient ensembles hurt the early state more",
        "§6.3",
        (TABLE_3,),
        "Gradient ensembles hurt the early-state defense more than the final-state defense.",
        (UNROLLED,),
        _ensembles_hurt_early,
    ),
    Statement(
        "PGD-10 hurts more than AutoAttack",
        "§6.3",
        (TABLE_3,),
        "Over all attacks and defenses of the unrolling-trained DEQ, PGD-10 leaves less accuracy than AutoAttack.",
        (UNROLLED,),
        _pgd_hurts_more,
    ),
    Statement(
        "AutoAttack hurts networks more than PGD-10",
        "§6.3",
        (),
        "Of an explicit network AutoAttack leaves less than PGD-10.",
        (RESNET,),
        _autoattack_hurts_networks_more,
    ),
    *(
        Statement(
            f"{rank}DEQ competitive with {rival.title}, {name}",
            "§6.3",
            (TABLE_4,),
            f"Under the strongest {name} on the ensemble defense the {rank}DEQ is at most {_COMPETITIVE:g} points less "
            f"robust than the {rival.title} of its size.",
            (UNROLLED, rival),
            partial(_competitive, rival=rival, size=size, attack=attack),
            sizes=size + 1,
        )
        for size, (rank, rival) in enumerate((("", RESNET), ("larger ", WIDE)))
        for attack, name in enumerate(("PGD-10", "AutoAttack"))
    ),
)
