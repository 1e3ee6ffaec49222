"""Tables for the terminal."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from rich.table import Table
from rich.text import Text

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import GridResult


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _with_interval(share: float, interval: Float[np.ndarray, "two"], style: str = "") -> Text:
    low, high = interval
    return Text.assemble((_percent(share), style), (f" {_percent(low)}–{_percent(high)}", "dim"))


def grid_table(result: GridResult, title: str) -> Table:
    """The defense × attack table in percent, each cell with its 95 % interval.

    Rows are attacks, columns are defenses, as fits a terminal. The weakest of the paper's attacks against each defense
    is underlined; an attack that was made only on what had withstood all before it is marked with ↓. Below the attacks
    stand the paper's measure (the minimum) and the per-sample worst case over everything.
    """
    samples = result.clean.shape[1]
    caption = f"accuracy in % on {samples} images, with Wilson 95 % intervals"
    if any(result.cumulative):
        caption += "; ↓ made on what withstood all attacks above, which it includes"
    table = Table(title=title, caption=caption, title_style="bold", caption_style="dim")
    table.add_column("attack")
    for defense in result.defenses:
        table.add_column(defense, justify="right", no_wrap=True)
    clean = wilson_intervals(result.clean)
    table.add_row("clean", *map(_with_interval, result.clean.mean(axis=1), clean), style="bold")
    table.add_section()
    for j, column in enumerate(result.columns):
        if j > 0 and result.beyond_paper[j] != result.beyond_paper[j - 1]:
            table.add_section()
        cells = []
        for i in range(len(result.defenses)):
            weakest = not result.beyond_paper[j] and result.accuracy[i, j] == result.robustness[i]
            style = "underline" if weakest else ""
            cells.append(_with_interval(result.accuracy[i, j], result.intervals[i, j], style))
        cumulative = bool(result.cumulative) and result.cumulative[j]
        table.add_row(f"{column} ↓" if cumulative else column, *cells)
    table.add_section()
    if not all(result.beyond_paper):
        table.add_row("minimum of the paper's columns", *map(_percent, result.robustness), style="bold")
    worst = map(_with_interval, result.worst_case, result.worst_case_intervals)
    table.add_row("worst case per image, all columns", *worst, style="bold")
    if any(result.errors):
        table.add_row("images with logits that are not finite", *map(str, result.errors))
    return table


def checks_table(result: GridResult) -> Table:
    """What the attacks say about themselves: one check per row, its verdict, and the numbers behind it."""
    table = Table(title="can the attacks be trusted?", title_style="bold", show_lines=True)
    table.add_column("check")
    table.add_column("verdict")
    table.add_column("what was found")
    for check in result.checks:
        verdict = Text("passed", "green") if check.passed else Text("failed", "bold red")
        numbers = "; ".join(
            f"{row}: " + ", ".join(f"{name} {_number(name, value)}" for name, value in numbers.items())
            for row, numbers in check.numbers.items()
        )
        table.add_row(check.name, verdict, Text.assemble(check.sentence, "\n", (numbers, "dim")))
    return table


def _number(name: str, value: float) -> str:
    if name == "p":
        return f"{value:.2g}"
    return f"{value:.0f}" if name == "images" else f"{_percent(value)} %"
