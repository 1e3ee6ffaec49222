"""Tables in Markdown."""

from __future__ import annotations

import re

from robustdeq.reporting.tabulation import Cell, Emphasis, Table

_EMPHASIS = {Emphasis.WEAKEST: "<ins>{}</ins>", Emphasis.BAD: "**{}**"}
_WIDE = 12


def markdown(table: Table) -> str:
    """The table with its title above and its caption below, on its side where it is very wide."""
    if not table.words and len(table.columns) > max(len(table.rows), _WIDE):
        table = table.turned()
    names = [f"**{escaped(row.name)}**" if row.summary else escaped(row.name) for row in table.rows]
    lines = [
        _line([escaped(name) or " " for name in (table.corner, *table.columns)]),
        "|---|" + ("---|" if table.words else "--:|") * len(table.columns),
        *(_line([name, *map(_cell, row.cells)]) for name, row in zip(names, table.rows, strict=True)),
    ]
    above = [f"**{escaped(table.title)}**", ""] * bool(table.title)
    below = ["", f"*{escaped(table.caption)}.*"] * bool(table.caption)
    return "\n".join([*above, *lines, *below]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    value = _EMPHASIS.get(cell.emphasis, "{}").format(escaped(cell.value))
    interval = f" ({escaped(cell.interval)})" if cell.interval else ""
    return value + interval + (f" / *{escaped(cell.reported)}*" if cell.reported else "")


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line, whatever is in it."""
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
    return re.sub(r"([\\|_*`\[\]])", r"\\\1", plain).replace("\n", "<br>")


def code(text: str) -> str:
    """Text as code in a line, also in a cell of a table."""
    line = " ".join(text.split()).replace("|", "¦") or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
