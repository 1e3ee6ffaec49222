"""What the columns of a grid mean; nothing else in the report looks it up."""

from __future__ import annotations

from typing import NamedTuple

from robustdeq.evaluation import GridResult
from robustdeq.reporting.settings import said


class ShownColumn(NamedTuple):
    """One attack of a grid: its place in the arrays, its name, whose it is, the gradient it climbs."""

    place: int
    name: str
    kind: str
    climbs: str
    beyond_paper: bool


def shown_columns(result: GridResult) -> list[ShownColumn]:
    """The columns of a grid as they are shown: the paper's, then those beyond it; ↓ where one is cumulative."""
    columns = []
    for j, label in enumerate(result.columns):
        cumulative, beyond = bool(result.cumulative) and result.cumulative[j], result.beyond_paper[j]
        kind = ("beyond the paper" if beyond else "the paper's") + ", on survivors" * cumulative
        columns.append(ShownColumn(j, label + " ↓" * cumulative, kind, said(result.gradients[j]), beyond))
    return sorted(columns, key=lambda column: column.beyond_paper)


def ready_made(result: GridResult) -> int | None:
    """The column of the ready-made attack, the one that needs no thought about the solver; None where there is none."""
    return result.ready_made.index(True) if True in result.ready_made else None
