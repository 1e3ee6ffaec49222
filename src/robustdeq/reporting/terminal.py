"""Tables in the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from robustdeq.reporting.tabulation import Cell, Emphasis, Table

_STYLES = {Emphasis.NONE: "", Emphasis.WEAKEST: "underline", Emphasis.GOOD: "green", Emphasis.BAD: "bold red"}
_NARROW, _BESIDE, _ROOM = 10, 3, 5


def terminal(table: Table) -> RichTable:
    """The table for the terminal, on its side where that is narrower.

    Where there are many columns the parts of a cell stand below each other, and where there are more the intervals are
    left out.
    """
    columns = table.columns
    if not table.words and len(columns) > len(table.rows) and max(map(len, columns)) > _NARROW:
        table = table.turned()
    across = len(table.columns)
    shown = RichTable(
        title=table.title or None,
        caption=table.caption or None,
        box=box.ROUNDED if len(table.groups) > 1 else box.SIMPLE_HEAD,
        title_style="bold",
        caption_style="dim",
    )
    shown.add_column(table.corner, no_wrap=table.words)
    for name in table.columns:
        shown.add_column(name, justify="left" if table.words else "right", overflow="fold")
    for group in table.groups:
        for row in group:
            cells = (_cell(cell, "\n" if across > _BESIDE else " ", across <= _ROOM) for cell in row.cells)
            shown.add_row(row.name, *cells, style="bold" if row.summary else None)
        shown.add_section()
    return shown


def _cell(cell: Cell, between: str, with_interval: bool) -> Text:
    parts: list[tuple[str, str]] = [(cell.value, _STYLES[cell.emphasis])]
    if cell.interval and with_interval:
        parts.append((f"{between}({cell.interval})", "dim"))
    if cell.reported:
        parts.append((f"{between}/ {cell.reported}", "cyan"))
    return Text.assemble(*parts)
