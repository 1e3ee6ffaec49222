"""What the columns of a grid mean; nothing else in the report looks it up."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeq.evaluation import GridResult


@dataclass(frozen=True)
class ShownColumn:
    """One attack of a grid.

    Attributes:
        index: its place in the arrays of the grid.
        label: its name.
        climbs: the gradient that it climbs.
        beyond_paper: whether the paper does not have it.
        cumulative: whether it attacked only what had withstood all columns before it.
    """

    index: int
    label: str
    climbs: str
    beyond_paper: bool
    cumulative: bool

    @property
    def name(self) -> str:
        """Its label, marked with ↓ where it is cumulative."""
        return f"{self.label} ↓" if self.cumulative else self.label

    @property
    def kind(self) -> str:
        """Whose attack it is, in words."""
        return ("beyond the paper" if self.beyond_paper else "the paper's") + ", on survivors" * self.cumulative


def shown_columns(result: GridResult) -> tuple[ShownColumn, ...]:
    """The columns of a grid as they are shown: the paper's, then those beyond it."""
    cumulative = result.cumulative or (False,) * len(result.columns)
    parts = zip(result.columns, result.gradients, result.beyond_paper, cumulative, strict=True)
    columns = [ShownColumn(j, *part) for j, part in enumerate(parts)]
    return tuple(sorted(columns, key=lambda column: column.beyond_paper))


def ready_made(result: GridResult) -> int | None:
    """The column of the ready-made attack, the one that needs no thought about the solver; None where there is none."""
    return result.ready_made.index(True) if True in result.ready_made else None
