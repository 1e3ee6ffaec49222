r"""Tables in LaTeX; the document needs `\usepackage{booktabs}`."""

from __future__ import annotations

from dataclasses import replace

from robustdeq.reporting.settings import subject
from robustdeq.reporting.tabulation import Cell, Emphasis, Table, findings_table, panel_table
from robustdeq.study import Reproduction

_CHARACTERS = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"}
    | {
        "ε": r"$\varepsilon$",
        "λ": r"$\lambda$",
        "β": r"$\beta$",
        "∂": r"$\partial$",
        "‖": r"$\|$",
        "₂": "$_2$",
        "∞": r"$\infty$",
    }
    | {"\n": " ", '"': "''", "`": "{`}", "∞": r"$\infty$"}
    | {"ᵀ": r"$^\top$", "−": "$-$", "–": "--", "×": r"$\times$", "↓": r"$\downarrow$", "≤": r"$\le$", "≥": r"$\ge$"}
)


def latex(table: Table, label: str) -> str:
    r"""The table for a paper.

    Args:
        table: the table.
        label: what `\ref` calls it.
    """
    groups = ("\n".join(_line(row.name, *map(_cell, row.cells)) for row in group) for group in table.groups)
    body = "\n    \\midrule\n".join(groups)
    heading = _line(table.corner, *(name.translate(_CHARACTERS) for name in table.columns))
    caption = "; ".join(filter(None, (table.title, table.caption))).translate(_CHARACTERS)
    return rf"""\begin{{table}}
  \centering
  \caption{{{caption}.}}
  \label{{{label}}}
  \begin{{tabular}}{{l{"r" * len(table.columns)}}}
    \toprule
{heading}
    \midrule
{body}
    \bottomrule
  \end{{tabular}}
\end{{table}}
"""


def _line(name: str, *cells: str) -> str:
    return f"    {' & '.join([name.translate(_CHARACTERS), *cells])} \\\\"


def _cell(cell: Cell) -> str:
    value, interval, reported = (part.translate(_CHARACTERS) for part in (cell.value, cell.interval, cell.reported))
    shown = rf"\underline{{{value}}}" if cell.emphasis is Emphasis.WEAKEST else value
    return shown + (interval and rf" {{\scriptsize ({interval})}}") + (reported and f" / {reported}")


def reproduction_latex(reproduction: Reproduction) -> str:
    """All panels of a reproduction in LaTeX; the captions say of which model, images and attack."""
    label = f"tab:{reproduction.name}"
    about = subject(reproduction.provenance)
    tables = [findings_table(reproduction.findings)] * bool(reproduction.findings)
    tables += map(panel_table, reproduction.panels)
    tables = [replace(table, title="; ".join(filter(None, (table.title, about)))) for table in tables]
    return "\n".join(latex(table, f"{label}-{i}" if len(tables) > 1 else label) for i, table in enumerate(tables, 1))
