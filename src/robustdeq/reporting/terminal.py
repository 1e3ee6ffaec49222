"""Tables in the terminal, as full as it is wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

from robustdeq.reporting.tabulation import Cell, Emphasis, Table

_STYLES = {Emphasis.WEAKEST: "underline", Emphasis.GOOD: "green", Emphasis.BAD: "bold red"}
_NARROW, _NAMES = 10, 24


@dataclass(frozen=True)
class Fitted:
    """A table that is printed as the terminal has room for it; where it is narrower on its side, it lies there.

    Where there is not room for all, headings are broken between words, else the parts of a cell stand below each other,
    else the intervals are left out, else the columns stand in several blocks.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichTable]:
        table = self.table
        if table.words:
            yield rich_table(table)
            return
        if len(table.columns) > len(table.rows) and max(map(len, table.columns)) > _NARROW:
            table = table.turned()
        forms = (table, " "), (table, "\n"), (table.without_intervals(), "\n")
        ways = [*product(range(1, len(table.columns) + 1), forms, (False, True))]

        def room(way: tuple[int, tuple[Table, str], bool]) -> bool:
            parts, (form, between), broken = way
            return all(_width(part, _widths(part, between, broken)) <= options.max_width for part in form.parted(parts))

        parts, (form, between), broken = next(filter(room, ways), ways[-1])
        blocks = [rich_table(part, between, _widths(part, between, broken)) for part in form.parted(parts)]
        for other in blocks[1:]:
            other.title = None
        for other in blocks[:-1]:
            other.caption = None
        blocks[-1].caption = form.caption or None
        yield from blocks


def terminal(table: Table) -> Fitted:
    """The table for the terminal, as wide as that is when it is printed."""
    return Fitted(table)


def rich_table(table: Table, between: str = " ", widths: Sequence[int | None] = ()) -> RichTable:
    """The table as rich prints it.

    Args:
        table: what is shown.
        between: what stands between the parts of a cell.
        widths: of the columns; by default as it comes.
    """
    shown = RichTable(
        title=table.title or None,
        caption=table.caption or None,
        box=box.ROUNDED if len(table.groups) > 1 else box.SIMPLE_HEAD,
        title_style="bold",
        caption_style="dim",
    )
    shown.add_column(table.corner, max_width=_names(table) if table.words else None, overflow="fold")
    for name, width in zip(table.columns, widths or [None] * len(table.columns), strict=True):
        shown.add_column(name, width=width, justify="left" if table.words else "right", overflow="fold")
    for group in table.groups:
        for row in group:
            shown.add_row(
                row.name, *(_cell(cell, between) for cell in row.cells), style="bold" if row.summary else None
            )
        shown.add_section()
    return shown


def _width(table: Table, widths: Sequence[int]) -> int:
    """How wide a table with columns of such widths is at least."""
    return _names(table) + sum(widths) + 3 * len(widths) + 4


def _names(table: Table) -> int:
    """How wide the names of the rows are, the long ones broken between words."""
    names = [table.corner, *(row.name for row in table.rows)]
    return max(min(_NAMES, max(map(len, names))), *(len(word) for name in names for word in name.split()), 0)


def _widths(table: Table, between: str, broken: bool) -> list[int]:
    """How wide the columns are, with headings that are broken between words or not."""
    headings = [name.split() if broken else [name] for name in table.columns]
    columns = zip(*(row.cells for row in table.rows), strict=True)
    lines = ([line for cell in column for line in _cell(cell, between).plain.split("\n")] for column in columns)
    return [max(map(len, [*heading, *texts])) for heading, texts in zip(headings, lines, strict=True)]


def _cell(cell: Cell, between: str) -> Text:
    parts = [(cell.value, _STYLES.get(cell.emphasis, ""))]
    parts += [(f"{between}({cell.interval})", "dim")] * bool(cell.interval)
    parts += [(f"{between}/ {cell.reported}", "cyan")] * bool(cell.reported)
    return Text.assemble(*parts)
