"""Tables for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from robustdeq.evaluation import GridResult


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def grid_table(result: GridResult, title: str) -> Table:
    """The defense × attack table in percent: rows are attacks, columns are defenses, as fits a terminal.

    The weakest of the paper's attacks against each defense is underlined; below the attacks stand the paper's measure
    (the minimum) and the per-sample worst case over everything, with its Wilson 95 % interval.
    """
    samples = result.clean.shape[1]
    table = Table(title=title, caption=f"accuracy in % on {samples} images", title_style="bold", caption_style="dim")
    table.add_column("attack")
    for defense in result.defenses:
        table.add_column(defense, justify="right")
    table.add_row("clean", *map(_percent, result.clean.mean(axis=1)), style="bold")
    table.add_section()
    for j, column in enumerate(result.columns):
        if j > 0 and result.beyond_paper[j] != result.beyond_paper[j - 1]:
            table.add_section()
        cells = []
        for i in range(len(result.defenses)):
            weakest = not result.beyond_paper[j] and result.accuracy[i, j] == result.robustness[i]
            cells.append(Text(_percent(result.accuracy[i, j]), style="underline" if weakest else ""))
        table.add_row(column, *cells)
    table.add_section()
    table.add_row("minimum of the paper's columns", *map(_percent, result.robustness), style="bold")
    table.add_row("worst case per image, all columns", *map(_percent, result.worst_case), style="bold")
    table.add_row(
        "… its 95 % interval", *(f"{_percent(low)}–{_percent(high)}" for low, high in result.worst_case_intervals)
    )
    return table
