"""§6.1, Fig. 2b, and §3: whether the models have fixed points, and what adversarial training costs."""

from __future__ import annotations

import numpy as np

from robustdeq.base.statistics import weakest
from robustdeq.study.claims.statement import Samples, Seed, Statement, points
from robustdeq.study.configurations import EXACT_8_7, EXACT_18_20, STANDARD, UNROLLED
from robustdeq.study.grids import paper_grid
from robustdeq.study.paper.fig2b import FIGURE_2B, residuals
from robustdeq.study.paper.jacobian_sweep import JACOBIAN_SWEEP, final_residuals
from robustdeq.study.paper.lipschitz import LIPSCHITZ, lipschitz_constants

_UNIT = "relative error"
_LARGE, _SMALL = 0.75, 0.045
"""The paper's bounds: above 0.75 everywhere, and 0.04 (that is, below 0.045) at the final state."""


def _violated(found: Seed) -> Samples:
    return weakest(found.of(residuals, EXACT_8_7)) - _LARGE


def _penalised(found: Seed) -> Samples:
    return weakest(found.once(final_residuals)) - _LARGE


def _retained_by_steps(found: Seed) -> Samples:
    return found.of(residuals, EXACT_8_7)[-1] - found.of(residuals, EXACT_18_20)[-1]


def _retained_by_unrolling(found: Seed) -> Samples:
    return found.of(residuals, EXACT_8_7)[-1] - found.of(residuals, UNROLLED)[-1]


def _converged(found: Seed) -> Samples:
    return _SMALL - found.of(residuals, UNROLLED)[-1]


def _falling(found: Seed) -> Samples:
    return weakest(-np.diff(found.of(residuals, UNROLLED), axis=0))


def _regularized(found: Seed) -> Samples:
    return found.of(lipschitz_constants, EXACT_8_7) - found.of(lipschitz_constants, UNROLLED)


def _more_steps(found: Seed) -> Samples:
    return found.of(residuals, EXACT_8_7)[-1] - found.of(residuals, STANDARD)[-1]


def _trade_off(found: Seed) -> Samples:
    return points(found.of(paper_grid, STANDARD)[0, 0], found.of(paper_grid, UNROLLED)[0, 0])


STRUCTURE = (
    Statement(
        "exact (8/7) violates the fixed-point structure",
        "§6.1",
        (FIGURE_2B,),
        "For the exact-trained DEQ with few iterations (8/7) the relative errors of all states are larger than 0.75.",
        (EXACT_8_7,),
        _violated,
        _UNIT,
    ),
    Statement(
        "no Jacobian penalty retains it",
        "",
        (JACOBIAN_SWEEP,),
        "With varied weights of the Jacobian penalty the solver of the exact-trained DEQ (8/7) still diverges: its "
        "relative error stays above 0.75 at the final state.",
        (EXACT_8_7,),
        _penalised,
        _UNIT,
    ),
    Statement(
        "more iterations (18/20) retain it",
        "§6.1",
        (FIGURE_2B,),
        "Exact training with more iterations (18/20) ends nearer to the fixed point than with few (8/7).",
        (EXACT_8_7, EXACT_18_20),
        _retained_by_steps,
        _UNIT,
    ),
    Statement(
        "unrolled training (8/7) retains it",
        "§6.1",
        (FIGURE_2B,),
        "With as few iterations (8/7), unrolled training ends nearer to the fixed point than exact training.",
        (EXACT_8_7, UNROLLED),
        _retained_by_unrolling,
        _UNIT,
    ),
    Statement(
        "unrolled training reaches 0.04",
        "§6.1",
        (FIGURE_2B,),
        "The relative error of the unrolling-trained DEQ reaches 0.04 at the final state.",
        (UNROLLED,),
        _converged,
        _UNIT,
    ),
    Statement(
        "its errors fall from state to state",
        "§6.1",
        (FIGURE_2B,),
        "The relative errors of the unrolling-trained DEQ become lower from every state to the next.",
        (UNROLLED,),
        _falling,
        _UNIT,
    ),
    Statement(
        "unrolled training regularises the Jacobian",
        "§6.1",
        (LIPSCHITZ,),
        "The Lipschitz constant of f at z* is lower after unrolled than after exact training with as few iterations.",
        (EXACT_8_7, UNROLLED),
        _regularized,
        "of ‖∂f/∂z‖",
    ),
    Statement(
        "adversarial training needs more steps",
        "Abstract, §3",
        (),
        "An adversarially (exact-) trained DEQ is farther from its equilibrium after as many steps than a vanilla one.",
        (EXACT_8_7, STANDARD),
        _more_steps,
        _UNIT,
    ),
    Statement(
        "robustness costs accuracy",
        "§3",
        (),
        "Adversarial training lowers the clean accuracy of a DEQ.",
        (STANDARD, UNROLLED),
        _trade_off,
    ),
)
