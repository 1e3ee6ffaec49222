"""Panels as tables: for the terminal, in Markdown and in LaTeX, the paper's numbers beside ours."""

from __future__ import annotations

import math

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from robustdeq.study import EXPERIMENTS, Panel, Reproduction, Scale
from robustdeq.study.experiment import BEYOND
from robustdeq.study.times import Time, measured_times

_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "ε": r"$\varepsilon$",
        "λ": r"$\lambda$",
        "β": r"$\beta$",
        "∂": r"$\partial$",
        "‖": r"$\|$",
        "₂": "$_2$",
        "ᵀ": r"$^\top$",
        "−": "$-$",
        "–": "--",
        "×": r"$\times$",
    }
)


def number(value: float, logarithmic: bool = False) -> str:
    """A number as it is shown: two decimals below 1, one below 1,000, none beyond; a dash for none.

    Args:
        value: the number.
        logarithmic: whether its neighbours span orders of magnitude: two significant digits then.
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if logarithmic:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def experiments_table(scale: Scale) -> Table:
    """Everything that can be reproduced, and what each needs at a scale."""
    table = Table(title=f"what can be reproduced, at the scale {scale.name}", title_style="bold")
    times = measured_times().get(scale.name, {})
    for heading in ("name", "what it is", "models it needs", *["measured time"] * bool(times)):
        table.add_column(heading, no_wrap=heading == "name", overflow="fold")
    for name, experiment in EXPERIMENTS.items():
        ways = ", ".join(way.name for way in experiment.configurations) or "none"
        both = experiment.every_size and len(scale.sizes) > 1
        source = "" if experiment.source == BEYOND else f"{experiment.source}: "
        row = [name, source + experiment.title, f"{ways} ({' and '.join(scale.sizes)})" if both else ways]
        table.add_row(*row, *[_time(times[name]) if name in times else ""] * bool(times))
    table.caption = f"A model that is missing is trained once, for all that need it: {scale.time} each."
    if times:
        places = sorted({f"{time.device}, {time.threads} thread{'s' * (time.threads > 1)}" for time in times.values()})
        table.caption += f" The times, of each alone and from nothing, are a guide: {' and '.join(places)}."
    return table


def _time(time: Time) -> str:
    """How long an experiment takes, and on what."""
    took = f"{time.seconds:.0f} s" if time.seconds < 100 else f"{time.seconds / 60:.0f} min"
    return f"{took}, {time.images} images{', weights given' * time.given}"


def panel_table(panel: Panel) -> Table:
    """A panel for the terminal, on its side where that is narrower.

    Below each number stand its interval, where there is room, and in parentheses the paper's number.
    """
    rows, columns = panel.rows, panel.columns
    turned = len(columns) > len(rows) and max(map(len, columns)) > _NARROW
    across, down = (rows, columns) if turned else (columns, rows)
    with_intervals = panel.low is not None and len(across) <= _ROOM
    said = [f"the {panel.interval}"] * with_intervals
    said += ["in parentheses the paper's number"] * (panel.paper is not None)
    caption = f"below each number: {', '.join(said)}" if said else None
    table = Table(title=f"{panel.title}{_in_unit(panel)}", caption=caption, caption_style="dim", box=box.SIMPLE_HEAD)
    table.add_column(panel.column_axis if turned else panel.row_axis)
    for name in across:
        table.add_column(name, justify="right")
    for i, name in enumerate(down):
        places = [(j, i) if turned else (i, j) for j in range(len(across))]
        table.add_row(name, *(_cell(panel, *place, with_intervals) for place in places))
    return table


_NARROW, _ROOM, _WIDE = 10, 6, 12


def _cell(panel: Panel, i: int, j: int, with_interval: bool) -> Text:
    parts: list[tuple[str, str]] = [(number(panel.values[i, j], panel.logarithmic), "bold")]
    if with_interval and (ends := interval(panel, i, j)):
        parts.append((f"\n{ends}", "dim"))
    if np.isfinite(panel.reported[i, j]):
        parts.append((f"\n({number(panel.reported[i, j])})", "cyan"))
    return Text.assemble(*parts)


def interval(panel: Panel, i: int, j: int) -> str:
    """The ends of the interval of one number; empty where it has none."""
    if panel.low is None or panel.high is None or not np.isfinite([panel.low[i, j], panel.high[i, j]]).all():
        return ""
    low, high = (number(matrix[i, j], panel.logarithmic) for matrix in (panel.low, panel.high))
    return f"{low} to {high}" if low.startswith("-") else f"{low}–{high}"


def _in_unit(panel: Panel) -> str:
    return f" ({panel.unit})" if panel.unit else ""


def panel_markdown(panel: Panel) -> str:
    """A panel as a Markdown table, on its side where it is very wide.

    Each cell holds our number, its interval, and the paper's after a stroke.
    """
    turned = len(panel.columns) > max(len(panel.rows), _WIDE)
    across, down = (panel.rows, panel.columns) if turned else (panel.columns, panel.rows)

    def cell(i: int, j: int) -> str:
        ends = interval(panel, i, j)
        text = number(panel.values[i, j], panel.logarithmic) + f" ({ends})" * bool(ends)
        reported = panel.reported[i, j]
        return f"{text} / *{number(reported)}*" if np.isfinite(reported) else text

    heading = [(panel.column_axis if turned else panel.row_axis) or " ", *across]
    lines = [f"**{panel.title}{_in_unit(panel)}**", ""]
    lines += [f"| {' | '.join(map(_escaped, heading))} |", "|---|" + "--:|" * len(across)]
    for i, name in enumerate(down):
        cells = [cell(j, i) if turned else cell(i, j) for j in range(len(across))]
        lines.append(f"| {' | '.join([_escaped(name), *cells])} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_")


def panel_latex(panel: Panel, label: str) -> str:
    """A panel as a LaTeX table (booktabs), the paper's number in parentheses.

    Args:
        panel: the panel.
        label: of the table.
    """

    def cell(i: int, j: int) -> str:
        text, ends = number(panel.values[i, j], panel.logarithmic), interval(panel, i, j)
        text += rf" {{\scriptsize [{ends}]}}" * bool(ends)
        reported = panel.reported[i, j]
        return text.replace("–", "--") + (f" ({number(reported)})" if np.isfinite(reported) else "")

    rows = [
        " & ".join([row.translate(_LATEX), *(cell(i, j) for j in range(len(panel.columns)))]) + r" \\"
        for i, row in enumerate(panel.rows)
    ]
    heading = " & ".join(name.translate(_LATEX) for name in (panel.row_axis, *panel.columns))
    notes = [r"the 95\,\% interval in brackets"] * (panel.low is not None)
    notes += ["the paper's number in parentheses"] * (panel.paper is not None)
    caption = f"{panel.title}{_in_unit(panel)}".translate(_LATEX) + "".join(f"; {note}" for note in notes)
    body = "\n    ".join(rows)
    return rf"""\begin{{table}}
  \centering
  \caption{{{caption}.}}
  \label{{{label}}}
  \begin{{tabular}}{{l{"r" * len(panel.columns)}}}
    \toprule
    {heading} \\
    \midrule
    {body}
    \bottomrule
  \end{{tabular}}
\end{{table}}
"""


def reproduction_latex(reproduction: Reproduction) -> str:
    """All panels of a reproduction in LaTeX."""
    label = f"tab:{reproduction.name}"
    return "\n".join(
        panel_latex(panel, f"{label}-{i}" if len(reproduction.panels) > 1 else label)
        for i, panel in enumerate(reproduction.panels, 1)
    )
