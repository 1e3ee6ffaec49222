"""Tables in Markdown."""

from __future__ import annotations

from robustdeq.reporting.tabulation import Cell, Emphasis, Table

_EMPHASIS = {
    Emphasis.NONE: "{}",
    Emphasis.WEAKEST: "<ins>{}</ins>",
    Emphasis.GOOD: "{}",
    Emphasis.BAD: "**{}**",
}
_WIDE = 12


def markdown(table: Table) -> str:
    """The table with its title above and its caption below, on its side where it is very wide."""
    if not table.words and len(table.columns) > max(len(table.rows), _WIDE):
        table = table.turned()
    names = [f"**{_escaped(row.name)}**" if row.summary else _escaped(row.name) for row in table.rows]
    lines = [
        _line([_escaped(name) or " " for name in (table.corner, *table.columns)]),
        "|---|" + ("---|" if table.words else "--:|") * len(table.columns),
        *(_line([name, *map(_cell, row.cells)]) for name, row in zip(names, table.rows, strict=True)),
    ]
    above = [f"**{_escaped(table.title)}**", ""] * bool(table.title)
    below = ["", f"*{_escaped(table.caption)}.*"] * bool(table.caption)
    return "\n".join([*above, *lines, *below]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    value = _EMPHASIS[cell.emphasis].format(_escaped(cell.value))
    interval = f" ({cell.interval})" if cell.interval else ""
    return value + interval + (f" / *{cell.reported}*" if cell.reported else "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*").replace("\n", "<br>")
