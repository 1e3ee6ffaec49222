"""Attacks on every gradient, read through every defense: the outcomes that most tables and figures are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import itemgetter

import numpy as np
from jaxtyping import Bool

from robustdeq.base.errors import require
from robustdeq.deq.gradients import Gradient
from robustdeq.evaluation import Estimators, GridResult, Paper, Strict
from robustdeq.study.panel import Drawing, Matrix, Panel, Panels, accuracies
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

INVERSES = {"B_nᵀ": True, "B_n as printed": False}
"""What multiplies the residual of the adjoint in Eq. 10, and whether it is the transpose."""

Outcomes = Bool[np.ndarray, "rows columns samples"]


def white_box(study: Study, trained: Trained, title: str) -> GridResult:
    """The paper's grid under PGD (Tables 2, 3 and 6), and PGD through the solver against each defense."""
    return study.measure(title, trained.deq, Paper(study.attack, study.estimators), trained.defenses)


def strict(study: Study, trained: Trained, title: str) -> GridResult:
    """The strict protocol's grid."""
    return study.measure(title, trained.deq, strict_protocol(study), trained.defenses)


def strict_protocol(study: Study) -> Strict:
    """The strict protocol in the threat model of the study."""
    return replace(study.strict, attack=study.attack, estimators=study.estimators)


def under(result: GridResult, names: Iterable[str]) -> Outcomes:
    """The outcomes under some columns of a grid, in their order: rows × columns × samples.

    Args:
        result: the grid.
        names: the ids or labels of the columns.

    Raises:
        InputError: one of them was not made, since the model lacks what it needs.
    """
    names = tuple(names)
    places = {name: j for known in (result.columns, result.ids) for j, name in enumerate(known)}
    why = "; ".join(f"{label}: {reason.rstrip('.')}" for label, reason in result.missing.items())
    for name in names:
        require(name in places, f"{name!r} cannot be measured here ({why}); take another model, or other data.")
    return result.per_sample[:, [places[name] for name in names]]


def paper_part(result: GridResult) -> Outcomes:
    """Clean and the paper's six columns: rows × `COLUMNS` × samples; raises `InputError` as `under`."""
    return np.concatenate([result.clean[:, None], under(result, map(str.lower, COLUMNS[1:]))], axis=1)


def paper_grid(study: Study, trained: Trained, title: str) -> Outcomes:
    """Clean and the paper's six columns under PGD: final, early and ensemble × `COLUMNS` × samples."""
    return paper_part(white_box(study, trained, title))


def grid_panels(title: str, outcomes: Outcomes, paper: Matrix) -> Panels:
    """The accuracies of such a part; then the weakest column of each defense, and the best of these: its robustness."""
    yield accuracies(title, DEFENSES, COLUMNS, outcomes, row_axis="Defense", column_axis="Attack", paper=paper)
    counts = outcomes[:, 1:].sum(axis=-1)
    rows = [*range(len(counts)), int(counts.min(axis=1).argmax())]
    weakest, lines = outcomes[rows, 1 + counts.argmin(axis=1)[rows]][None], paper[:, 1:].min(axis=1)
    yield accuracies(
        f"{title}: white-box robustness",
        ("Weakest column",),
        (*DEFENSES, "Best defense"),
        weakest,
        column_axis="Defense",
        paper=np.append(lines, lines.max())[None],
        drawing=Drawing.BARS,
    )


def states_under(study: Study, trained: Trained, gradients: Mapping[str, Gradient], title: str) -> Outcomes:
    """Whether every state withstands PGD on each of these gradients: gradients × states × samples."""
    return np.swapaxes(study.climbed(title, trained.deq, trained.states, gradients).per_sample, 0, 1)


def printed_adjoints(study: Study, trained: Trained, title: str) -> tuple[Outcomes, dict[str, Gradient]]:
    """The three adjoint columns with B_n as the paper prints it (Eq. 10), not transposed.

    Args:
        study: the study.
        trained: the model.
        title: what is shown while it is measured.

    Returns:
        Final, early and ensemble × three columns × samples under PGD, and the gradient behind each column, by label; of
        several candidates it is the one that hurts the early-state defense most.
    """
    early, outcomes, strongest_of = list(trained.defenses).index("early"), [], {}
    for column in replace(study.estimators, transpose=False).candidates(trained.deq.last_state)[:3]:
        tried = {gradient.label: gradient for gradient in column.gradients}
        found = study.climbed(f"{title}, {column.label}", trained.deq, trained.defenses, tried).per_sample
        chosen = found[early].sum(axis=-1).argmin()
        outcomes.append(found[:, chosen])
        strongest_of[column.label] = column.gradients[chosen]
    return np.stack(outcomes, axis=1), strongest_of


def printed_panel(title: str, outcomes: Outcomes, paper: Matrix) -> Panel:
    """The accuracies of these three columns, beside the paper's."""
    return accuracies(
        f"{title}: adjoint with B_n as printed",
        DEFENSES,
        COLUMNS[1:4],
        outcomes,
        row_axis="Defense",
        column_axis="Attack",
        paper=paper[:, 1:4],
    )


def strongest_on(row: int, result: GridResult, estimators: Estimators, last: int) -> Gradient:
    """Of all candidates behind the paper's six columns in a grid of `white_box`, the one that hurts a row most."""
    tried = dict(zip(result.ids, result.tried, strict=True))
    candidates = [
        (standing, gradient)
        for column in estimators.candidates(last)
        if column.id in tried
        for standing, gradient in zip(tried[column.id][row], column.gradients, strict=True)
    ]
    return min(candidates, key=itemgetter(0))[1]


def strongest(result: GridResult, estimators: Estimators, last: int) -> dict[str, Gradient]:
    """The gradient behind each of the paper's six columns in a grid of `white_box`, by label.

    Of several candidates it is the one that hurts the early-state defense most.
    """
    climbed = dict(zip(result.ids, result.climbed, strict=True))
    return {
        column.label: column.gradients[index]
        for column in estimators.candidates(last)
        if (index := climbed.get(column.id)) is not None
    }
