"""Table 1, Fig. 2a and Appendix C: the ready-made attack overrates, and robustness accumulates along the states."""

from __future__ import annotations

from functools import partial

import numpy as np

from robustdeq.base.statistics import weakest
from robustdeq.study.claims.statement import PGD, Samples, Seed, Statement, mildest, points
from robustdeq.study.configurations import EXACT_8_7, EXACT_18_20, EXACT_50_50, UNROLLED, Configuration
from robustdeq.study.paper.accumulation import ACCUMULATION, ADVERSARIAL, states_under_ready_made
from robustdeq.study.paper.fig2a import FIGURE_2A
from robustdeq.study.paper.table1 import TABLE_1, ready_made

_EXACT, _UNROLLED, _UNROLLED_LONG, _SQUARE = 1, 3, 4, 5


def _overrated(found: Seed) -> Samples:
    outcomes = found.of(ready_made, EXACT_8_7)
    return points(outcomes[_EXACT], outcomes[_UNROLLED])


def _queried(found: Seed) -> Samples:
    outcomes = found.of(ready_made, EXACT_8_7)
    return points(outcomes[_UNROLLED_LONG], outcomes[_SQUARE])


def _intermediate(found: Seed, configuration: Configuration) -> Samples:
    return mildest(found.of(states_under_ready_made, configuration)[1][:-1])


def _final(found: Seed, configuration: Configuration) -> Samples:
    return found.of(states_under_ready_made, configuration)[1][-1].astype(float)


def _accumulated(found: Seed, configuration: Configuration) -> Samples:
    return points(_intermediate(found, configuration), _final(found, configuration))


def _larger(found: Seed) -> Samples:
    few, more, most = (_intermediate(found, way) for way in (EXACT_8_7, EXACT_18_20, EXACT_50_50))
    return weakest(np.stack([points(more, few), points(most, more)]))


def _highest(found: Seed) -> Samples:
    others = np.stack([_final(found, way) for way in (EXACT_18_20, EXACT_50_50)])
    return points(_final(found, UNROLLED), mildest(others))


OBFUSCATION = (
    Statement(
        "the exact gradient overrates exact (8/7)",
        "§6.1",
        (TABLE_1,),
        f"The accuracy of the exact-trained DEQ (8/7) under {PGD} with the exact gradient falls with the unrolled one.",
        (EXACT_8_7,),
        _overrated,
    ),
    Statement(
        "Square hurts exact (8/7) most",
        "§6.1",
        (TABLE_1,),
        "Square, which asks for no gradient, leaves less of it than even the long PGD with the unrolled gradient.",
        (EXACT_8_7,),
        _queried,
    ),
    *(
        Statement(
            f"robustness accumulates: {way.title}",
            "§6.2",
            (FIGURE_2A, ACCUMULATION),
            f"In the {way.title} DEQ an intermediate state withstands the ready-made attack better than the final one.",
            (way,),
            partial(_accumulated, configuration=way),
        )
        for way in ADVERSARIAL
    ),
    Statement(
        "more exact iterations accumulate more",
        "§6.2",
        (FIGURE_2A, ACCUMULATION),
        "The larger the iteration of exact training (8/7, 18/20, 50/50), the more robust look the intermediate states; "
        "the effect is that of the lesser step.",
        (EXACT_8_7, EXACT_18_20, EXACT_50_50),
        _larger,
    ),
    Statement(
        "unrolled training has the most robust final state",
        "§6.2",
        (FIGURE_2A, ACCUMULATION),
        "Under the ready-made attack the final state of the unrolling-trained DEQ (8/7) is more robust than those of "
        "the exact-trained ones with more iterations (18/20, 50/50).",
        (UNROLLED, EXACT_18_20, EXACT_50_50),
        _highest,
    ),
)
