"""Tables 2–4: which attack and which defense is strongest, PGD against AutoAttack, and networks of the same size."""

from __future__ import annotations

from functools import partial

import numpy as np

from robustdeq.base.statistics import weakest
from robustdeq.study.claims.statement import (
    PGD,
    WITHIN,
    Outcomes,
    Samples,
    Seed,
    Statement,
    best_defense,
    hurts_most,
    mildest,
    points,
    robustness,
)
from robustdeq.study.configurations import EXACT_8_7, EXACT_50_50, RESNET, UNROLLED, WIDE, Configuration
from robustdeq.study.grids import paper_grid
from robustdeq.study.paper.table2 import TABLE_2
from robustdeq.study.paper.table3 import TABLE_3, attacked_twice
from robustdeq.study.paper.table4 import TABLE_4, network

_FINAL, _EARLY, _ENSEMBLE = range(3)
_ADJOINT, _UNROLLED = slice(1, 4), slice(4, 7)
_ADJOINT_ENSEMBLE, _UNROLLED_FINAL, _UNROLLED_ENSEMBLE = 3, 4, 6
_FINALS, _INTERMEDIATES = [1, 4], [2, 5]
_MATCHED = np.eye(3, dtype=bool)[:, [0, 1, 2, 0, 1, 2]]
"""Where a column climbs the gradient of the very state that the row reads."""
_ATTACKS = {PGD: (TABLE_2, TABLE_3), "AutoAttack": (TABLE_3,)}
"""And the tables that show them on the unrolling-trained DEQ."""
_COMPETITIVE = 10.0
"""By how many points a DEQ may be less robust than a network that it is competitive with; the paper's is 6.5 less."""


def _row(found: Seed, row: int, configuration: Configuration = UNROLLED) -> Outcomes:
    """One defense, clean and under the six columns."""
    return found.of(paper_grid, configuration)[row]


def _unrolling_strongest(found: Seed, row: int) -> Samples:
    outcomes = _row(found, row)
    return points(weakest(outcomes[_ADJOINT]), weakest(outcomes[_UNROLLED]))


def _adjoint_strong(found: Seed) -> Samples:
    outcomes = _row(found, _EARLY, EXACT_50_50)
    return points(outcomes[_UNROLLED_FINAL], weakest(outcomes[_ADJOINT]))


def _twice(found: Seed, attack: int, size: int = 0) -> Outcomes:
    """The grid of the unrolling-trained DEQ under one of `_ATTACKS`."""
    return found.of(attacked_twice, UNROLLED, found.study.scale.sizes[size])[attack]


def _strongest_on_ensemble(found: Seed, column: int, size: int, attack: int) -> Samples:
    return hurts_most(_twice(found, attack, size)[_ENSEMBLE, 1:], column - 1)


def _ensemble_best(found: Seed, size: int, attack: int) -> Samples:
    return best_defense(_twice(found, attack, size), _ENSEMBLE)


def _ensemble_best_exact(found: Seed) -> Samples:
    return best_defense(found.of(paper_grid, EXACT_50_50), _ENSEMBLE)


def _improved(found: Seed, row: int, columns: list[int]) -> Samples:
    return points(weakest(_row(found, _ENSEMBLE)[columns]), weakest(_row(found, row)[columns]))


def _balanced(found: Seed) -> Samples:
    spreads = [points(mildest(row[1:]), weakest(row[1:])) for row in (_row(found, _FINAL), _row(found, _ENSEMBLE))]
    return spreads[0] - spreads[1]


def _before_exact(found: Seed) -> Samples:
    ours, theirs = (robustness(found.of(paper_grid, way)) for way in (UNROLLED, EXACT_50_50))
    return points(mildest(np.stack(ours)), mildest(np.stack(theirs)))


def _before_few_exact(found: Seed) -> Samples:
    return points(weakest(_row(found, _FINAL)[1:]), weakest(_row(found, _FINAL, EXACT_8_7)[1:]))


def _ensembles_hurt_early(found: Seed, attack: int) -> Samples:
    final, early, _ = _twice(found, attack)[:, [_ADJOINT_ENSEMBLE, _UNROLLED_ENSEMBLE]]
    return points(final, early).mean(axis=0)


def _gain_of_autoattack(found: Seed) -> Samples:
    """By how many points it leaves less than PGD, for every defense and column."""
    climbed, automatic = (_twice(found, attack)[:, 1:] for attack in range(2))
    return points(climbed, automatic)


def _pgd_hurts_more(found: Seed) -> Samples:
    return -_gain_of_autoattack(found).mean(axis=(0, 1))


def _overfits(found: Seed) -> Samples:
    gain = _gain_of_autoattack(found)
    return gain[_MATCHED].mean(axis=0) - gain[~_MATCHED].mean(axis=0)


def _autoattack_hurts_networks_more(found: Seed) -> Samples:
    _, climbed, automatic = found.of(network, RESNET)
    return points(climbed, automatic)


def _competitive(found: Seed, rival: Configuration, size: int, attack: int) -> Samples:
    weakened = weakest(_twice(found, attack, size)[_ENSEMBLE, 1:])
    return points(weakened, found.of(network, rival)[1 + attack]) + _COMPETITIVE


DEFENSES = (
    *(
        Statement(
            f"unrolled columns hurt the {name} state most",
            "§6.2",
            (TABLE_2,),
            f"Against the {name}-state defense of the unrolling-trained DEQ the strongest of the three unrolled "
            "columns is stronger than the strongest simultaneous adjoint.",
            (UNROLLED,),
            partial(_unrolling_strongest, row=row),
        )
        for name, row in (("final", _FINAL), ("early", _EARLY))
    ),
    Statement(
        "the adjoint attacks exact (50/50) well",
        "§6.2",
        (TABLE_2,),
        "Against the early state of the exact-trained DEQ (50/50) the strongest simultaneous adjoint is stronger than "
        "the ready-made unrolled attack.",
        (EXACT_50_50,),
        _adjoint_strong,
    ),
    *(
        Statement(
            f"{name} gradients hurt the ensemble defense less",
            "§6.2",
            (TABLE_2,),
            f"The ensemble defense of the unrolling-trained DEQ withstands {name} gradients better than its {row} "
            "state.",
            (UNROLLED,),
            partial(_improved, row=index, columns=columns),
        )
        for name, row, index, columns in (
            ("final", "final", _FINAL, _FINALS),
            ("intermediate", "early", _EARLY, _INTERMEDIATES),
        )
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
    *(
        Statement(
            f"the ensemble attack hurts the ensemble defense most: {name}",
            "§6.2, §6.3",
            shown,
            f"Against the ensemble defense of the unrolling-trained DEQ the unrolled gradient ensemble is the "
            f"strongest under {name}.",
            (UNROLLED,),
            partial(_strongest_on_ensemble, column=_UNROLLED_ENSEMBLE, size=0, attack=attack),
        )
        for attack, (name, shown) in enumerate(_ATTACKS.items())
    ),
    Statement(
        "in the larger DEQ the final gradient does",
        "§6.3",
        (TABLE_3,),
        "Against the ensemble defense of the larger DEQ the unrolled gradient at the final state is the strongest.",
        (UNROLLED,),
        partial(_strongest_on_ensemble, column=_UNROLLED_FINAL, size=1, attack=0),
        sizes=2,
    ),
    *(
        Statement(
            f"the ensemble defense is best: {rank}unrolled, {name}",
            "§6.2, §6.3",
            shown if size == 0 else (TABLE_3,),
            f"Each under its strongest {name}, the ensemble defense of the {rank}unrolling-trained DEQ beats the other "
            "two.",
            (UNROLLED,),
            partial(_ensemble_best, size=size, attack=attack),
            sizes=size + 1,
        )
        for size, rank in enumerate(("", "larger "))
        for attack, (name, shown) in enumerate(_ATTACKS.items())
    ),
    Statement(
        "the ensemble defense is best: exact (50/50)",
        "§6.2",
        (TABLE_2,),
        "Each under its strongest attack, the ensemble defense of the exact-trained DEQ (50/50) beats the other two.",
        (EXACT_50_50,),
        _ensemble_best_exact,
    ),
    Statement(
        "unrolled (8/7) is more robust than exact (50/50)",
        "§6.2",
        (TABLE_2,),
        "Each by its best defense under the strongest attack on it, the unrolling-trained DEQ (8/7) is more robust "
        "than the exact-trained one (50/50).",
        (UNROLLED, EXACT_50_50),
        _before_exact,
    ),
    Statement(
        "unrolled (8/7) is more robust than exact (8/7)",
        "§6.2, footnote 3",
        (),
        "Under the strongest of the six attacks on its final state the unrolling-trained DEQ (8/7) is more robust than "
        "the exact-trained one with as few iterations.",
        (UNROLLED, EXACT_8_7),
        _before_few_exact,
    ),
    *(
        Statement(
            f"gradient ensembles hurt the early state more: {name}",
            "§6.3",
            (TABLE_3,),
            f"Under {name} gradient ensembles hurt the early-state defense more than the final-state defense.",
            (UNROLLED,),
            partial(_ensembles_hurt_early, attack=attack),
        )
        for attack, name in enumerate(_ATTACKS)
    ),
    Statement(
        f"{PGD} hurts more than AutoAttack",
        "§6.3",
        (TABLE_3,),
        f"On average over all attacks and defenses of the unrolling-trained DEQ, {PGD} leaves less than AutoAttack.",
        (UNROLLED,),
        _pgd_hurts_more,
    ),
    Statement(
        "AutoAttack overfits to its gradient",
        "§6.3",
        (TABLE_3,),
        f"AutoAttack gains more on {PGD} where the defense reads the state whose gradient it climbs than elsewhere.",
        (UNROLLED,),
        _overfits,
    ),
    Statement(
        f"AutoAttack hurts networks more than {PGD}",
        "§6.3",
        (),
        f"Of an explicit network AutoAttack leaves less than {PGD}.",
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
            WITHIN,
            sizes=size + 1,
        )
        for size, (rank, rival) in enumerate((("", RESNET), ("larger ", WIDE)))
        for attack, name in enumerate(_ATTACKS)
    ),
)
