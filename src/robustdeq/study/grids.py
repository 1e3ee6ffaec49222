"""Attacks on every gradient, read through every defense: the outcomes that most tables and figures are made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from robustdeq.deq.gradients import Ensemble, Gradient, SimultaneousAdjoint, ThroughSolver, UnrolledIntermediate
from robustdeq.evaluation import Column, Estimators, GridResult
from robustdeq.evaluation.attempt import Attempt
from robustdeq.evaluation.protocol import Family, Setting, estimated_gradients, paper_columns, strict_columns
from robustdeq.study.study import Study, Trained

DEFENSES = ("Final", "Early", "Ensemble")
COLUMNS = (
    "Clean",
    "Simultaneous Adjoint, Final",
    "Simultaneous Adjoint, Intermediate",
    "Simultaneous Adjoint, Ensemble",
    "Unrolled Intermediates, Final",
    "Unrolled Intermediates, Intermediate",
    "Unrolled Intermediates, Ensemble",
)

Outcomes = Bool[np.ndarray, "rows columns samples"]


def setting(study: Study, trained: Trained) -> Setting:
    """What the columns of the protocols depend on, for a model of a study."""
    true: dict[str, Gradient] = {name: ThroughSolver(defense) for name, defense in trained.defenses.items()}
    return Setting(trained.deq.last_state, true, study.attack, study.estimators, study.strict)


def white_box(study: Study, trained: Trained, title: str) -> GridResult:
    """The paper's grid under PGD (Tables 2, 3 and 6), and PGD through the solver against each defense."""
    columns = tuple(paper_columns(setting(study, trained)))
    return study.attacked(title, trained.deq, trained.defenses, columns)


def strict(study: Study, trained: Trained, title: str) -> GridResult:
    """The strict protocol's grid."""
    columns = tuple(strict_columns(setting(study, trained)))
    return study.attacked(title, trained.deq, trained.defenses, columns)


def paper_part(result: GridResult) -> Outcomes:
    """Clean and the paper's six columns: final, early and ensemble × `COLUMNS` × samples."""
    return np.concatenate([result.clean[:, None], result.per_sample[:, ~np.asarray(result.beyond_paper)]], axis=1)


def strongest_intermediates(result: GridResult, estimators: Estimators, last: int) -> tuple[Gradient, Gradient]:
    """The intermediate gradients of both families that hurt the early-state defense most, in a grid of `white_box`."""
    candidates = estimated_gradients(last, estimators)
    found = []
    for family in (Family.ADJOINT, Family.UNROLLED):
        chosen = result.gradients[result.columns.index(f"{family}, intermediate")]
        found.append(next(gradient for gradient in candidates[family, "intermediate"] if repr(gradient) == chosen))
    adjoint, unrolled = found
    return adjoint, unrolled


def climbing(study: Study, gradients: Mapping[str, Gradient]) -> tuple[Column, ...]:
    """One column of PGD per gradient, in order."""
    return tuple(
        Column(_family(gradient), name, (Attempt(study.attack, gradient),)) for name, gradient in gradients.items()
    )


def _family(gradient: Gradient) -> Family:
    base = gradient.family if isinstance(gradient, Ensemble) else gradient
    if isinstance(base, SimultaneousAdjoint):
        return Family.ADJOINT
    if isinstance(base, UnrolledIntermediate):
        return Family.UNROLLED
    return Family.SOLVER if isinstance(base, ThroughSolver) else Family.IMPLICIT
