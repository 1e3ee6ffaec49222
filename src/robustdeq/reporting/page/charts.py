"""Charts: what is drawn, what it shows in words, and the same numbers as a table."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from plotly import graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

from robustdeq.reporting.tabulation import Table

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
_SCALE = "Cividis"
_LINE = 14

Numbers = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        title: what it is about.
        figure: data and layout; the page gives each trace the colour of its theme whose index is the trace's `meta`.
        finding: what it shows, in words.
        table: its numbers.
        width: the least width in pixels at which it can be read.
        note: how to read it.
    """

    title: str
    figure: go.Figure
    finding: str
    table: Table
    width: int = 0
    note: str = ""

    @property
    def plain(self) -> dict[str, Any]:
        """The figure as plain values; the template is that of the page."""
        figure = self.figure.to_plotly_json()
        figure["layout"].pop("template", None)
        return figure

    @property
    def height(self) -> int:
        """In pixels."""
        return self.figure.layout.height


def wrapped(text: str, width: int) -> str:
    """The text for a chart, which reads markup: escaped, in lines of at most `width` letters."""
    return "<br>".join(map(html.escape, textwrap.wrap(text, width) or [""]))


def templates() -> dict[str, Any]:
    """The colours of both themes, for plotly; each pair differs in lightness too, for those who see no colour."""
    return {
        "light": _template("#1c2024", "#d5dae0", "#ffffff", ("#0067a5", "#b8480a", "#00785a", "#a3457f", "#7a5c00")),
        "dark": _template("#e6e9ec", "#3a4149", "#22272d", ("#6db9f2", "#ff9d5c", "#4fd1a5", "#f09fce", "#e8c33e")),
    }


def _template(ink: str, rule: str, surface: str, series: tuple[str, ...]) -> dict[str, Any]:
    axis = {
        "gridcolor": rule,
        "linecolor": rule,
        "zerolinecolor": rule,
        "tickcolor": rule,
        "tickfont": {"size": 12},
        "title": {"font": {"size": 12}, "standoff": 8},
    }
    return {
        "layout": {
            "font": {"family": _FONT, "size": 12, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [*series, ink],
            "hoverlabel": {
                "bgcolor": surface,
                "bordercolor": rule,
                "align": "left",
                "font": {"color": ink, "family": _FONT, "size": 12},
            },
            "xaxis": axis,
            "yaxis": axis,
            "shapedefaults": {"line": {"color": ink, "width": 2}},
        }
    }


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Numbers,
    texts: Sequence[Sequence[str]],
    details: Sequence[Sequence[str]],
    span: tuple[float, float],
    axis: str = "",
    rules: Sequence[int] = (),
) -> go.Figure:
    """A matrix, each cell with its number.

    Args:
        rows: their names.
        columns: their names.
        values: what the colours show.
        texts: what the cells say.
        details: what a cell says under the pointer, in plotly's markup.
        span: the values at the ends of the scale of colours.
        axis: what the columns are.
        rules: before which rows a line is drawn.
    """
    names, heads = [wrapped(row, 24) for row in rows], [wrapped(column, 12) for column in columns]
    heights = [1 + name.count("<br>") for name in names]
    trace = go.Heatmap(
        z=_plain(values),
        x=list(range(len(heads))),
        y=list(range(len(names))),
        text=[
            [_legible(text, value, span) for text, value in zip(words, line, strict=True)]
            for words, line in zip(texts, _plain(values), strict=True)
        ],
        texttemplate="%{text}",
        textfont={"size": 12},
        customdata=[list(row) for row in details],
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        colorscale=_SCALE,
        zmin=span[0],
        zmax=span[1],
        showscale=False,
        xgap=2,
        ygap=2,
    )
    figure = go.Figure(trace, _layout(60 + len(names) * (8 + _LINE * max(heights)) + _LINE * _lines(heads)))
    figure.update_xaxes(
        tickvals=list(range(len(heads))),
        ticktext=heads,
        side="top",
        title_text=wrapped(axis, 40),
        showgrid=False,
        tickangle=0,
    )
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", showgrid=False)
    for row in rules:
        figure.add_hline(y=row - 0.5)
    return figure


def heat_map_width(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> int:
    """The least width in pixels at which the names of the columns and the texts of the cells stand side by side."""
    lines = [line for column in columns for line in wrapped(column, 12).split("<br>")]
    longest = max(map(len, (*lines, *(text for row in texts for text in row))))
    return 120 + len(columns) * max(46, 6 * longest + 10)


def curves(
    names: Sequence[str],
    columns: Sequence[str],
    values: Numbers,
    unit: str,
    axis: str = "",
    ends: tuple[Numbers, Numbers] | None = None,
    reported: Numbers | None = None,
    logarithmic: bool = False,
    span: tuple[float, float] | None = None,
    paired: bool = False,
) -> go.Figure:
    """A line for each row, told apart by colour, symbol and dash.

    Args:
        names: of the lines.
        columns: the names of the places on the horizontal axis.
        values: the heights of the lines.
        unit: of the values.
        axis: what the columns are.
        ends: of the intervals.
        reported: what the paper says, drawn as open symbols.
        logarithmic: whether the values span orders of magnitude.
        span: the ends of the vertical axis.
        paired: whether every second line belongs to the one before it, and has its colour and symbol.
    """
    figure = go.Figure(layout=_layout(280 + 10 * len(names)))
    places, heads = list(range(len(columns))), [wrapped(column, 14) for column in columns]
    for i, name in enumerate(names):
        own, second = divmod(i, 2) if paired else (i, 0)
        symbol, shown = _SYMBOLS[own % len(_SYMBOLS)], wrapped(name, 40)
        line = _plain(values)[i]
        figure.add_scatter(
            x=places,
            y=line,
            name=shown,
            mode="lines+markers",
            marker={"symbol": f"{symbol}-open" if second else symbol, "size": 8},
            line={"dash": _DASHES[(second if paired else own) % len(_DASHES)]},
            error_y=None if ends is None else _errors(line, _plain(ends[0])[i], _plain(ends[1])[i]),
            hovertemplate=f"{shown}<br>%{{x}}: %{{y:.3g}} {wrapped(unit, 40)}<extra></extra>",
            meta=own,
        )
        if reported is not None and np.isfinite(reported[i]).any():
            figure.add_scatter(
                x=places,
                y=_plain(reported)[i],
                name=f"paper: {shown}",
                mode="markers",
                marker={"symbol": f"{symbol}-open", "size": 12},
                hovertemplate=f"paper: {shown}<br>%{{x}}: %{{y:.3g}} {wrapped(unit, 40)}<extra></extra>",
                meta=own,
            )
    every = -(-len(heads) // 12)
    figure.update_xaxes(tickvals=places[::every], ticktext=heads[::every], title_text=wrapped(axis, 40))
    figure.update_yaxes(title_text=wrapped(unit, 40), type="log" if logarithmic else "linear", range=span)
    if logarithmic:
        figure.update_yaxes(tickformat="~g")
    return figure


def bars(
    rows: Sequence[str],
    names: Sequence[str],
    values: Numbers,
    unit: str,
    ends: tuple[Numbers, Numbers] | None = None,
    reported: Numbers | None = None,
    logarithmic: bool = False,
) -> go.Figure:
    """Groups of horizontal bars.

    Args:
        rows: the names of the groups.
        names: of the bars in a group.
        values: the lengths, groups × bars.
        unit: of the values.
        ends: of the intervals.
        reported: what the paper says, drawn as hatched bars.
        logarithmic: whether the values span orders of magnitude.
    """
    groups = [wrapped(row, 24) for row in rows]
    hatched = reported is not None and bool(np.isfinite(np.asarray(reported)).any())
    per_group = len(names) * (1 + hatched)
    figure = go.Figure(layout=_layout(110 + len(rows) * max(34, 22 * per_group) + 22 * per_group))
    for source, matrix, pattern in (("", values, ""), *([("paper: ", reported, "/")] if hatched else [])):
        for j, name in enumerate(names):
            column = [line[j] for line in _plain(matrix if matrix is not None else ())]
            error = None
            if ends is not None and not source:
                error = _errors(column, [line[j] for line in _plain(ends[0])], [line[j] for line in _plain(ends[1])])
            figure.add_bar(
                x=column,
                y=list(range(len(groups))),
                orientation="h",
                name=source + (wrapped(name, 40) or "ours"),
                marker={"pattern": {"shape": pattern}},
                error_x=error,
                hovertemplate=f"%{{y}}<br>{source}{wrapped(name, 40)}: %{{x:.3g}} {wrapped(unit, 40)}<extra></extra>",
                meta=j,
            )
    figure.update_xaxes(title_text=wrapped(unit, 40), type="log" if logarithmic else "linear")
    figure.update_yaxes(tickvals=list(range(len(groups))), ticktext=groups, autorange="reversed", showgrid=False)
    return figure


def dots(
    rows: Sequence[str],
    names: Sequence[str],
    values: Numbers,
    unit: str,
    ends: tuple[Numbers, Numbers],
    rules: Sequence[int] = (),
) -> go.Figure:
    """A row of symbols on one scale for each row, one symbol for each measure.

    Args:
        rows: their names.
        names: of the measures.
        values: rows × measures; nan where there is none.
        unit: of the values.
        ends: of the intervals; nan where there is none.
        rules: before which rows a line is drawn.
    """
    groups = [wrapped(row, 24) for row in rows]
    figure = go.Figure(layout=_layout(120 + len(groups) * (12 + _LINE * _lines(groups))))
    lows, highs = _plain(ends[0]), _plain(ends[1])
    for j, name in enumerate(names):
        column = [line[j] for line in _plain(values)]
        figure.add_scatter(
            x=column,
            y=[i + 0.16 * (j - (len(names) - 1) / 2) for i in range(len(groups))],
            name=wrapped(name, 40),
            mode="markers",
            marker={"symbol": _SYMBOLS[j], "size": 11},
            error_x=_errors(column, [line[j] for line in lows], [line[j] for line in highs]),
            customdata=groups,
            hovertemplate=f"%{{customdata}}<br>{wrapped(name, 40)}: %{{x:.1f}} {unit}<extra></extra>",
            meta=j,
        )
    figure.update_xaxes(title_text=unit, range=(0, 100))
    figure.update_yaxes(tickvals=list(range(len(groups))), ticktext=groups, range=(len(groups) - 0.5, -0.5))
    for row in rules:
        figure.add_hline(y=row - 0.5, line_width=1)
    return figure


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8, "pad": 4},
        "xaxis": {"automargin": True, "fixedrange": True, "zeroline": False},
        "yaxis": {"automargin": True, "fixedrange": True, "zeroline": False},
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "x": 0,
            "itemclick": False,
            "itemdoubleclick": False,
        },
        "hovermode": "closest",
        "dragmode": False,
    }


def _lines(texts: Sequence[str]) -> int:
    return max((1 + text.count("<br>") for text in texts), default=1)


def _errors(values: Sequence[Any], low: Sequence[Any], high: Sequence[Any]) -> dict[str, Any]:
    """The arms of an interval, none where a number is missing."""

    def arm(a: float | None, b: float | None) -> float:
        return 0.0 if a is None or b is None else abs(a - b)

    return {
        "type": "data",
        "symmetric": False,
        "array": [arm(value, end) for value, end in zip(values, high, strict=True)],
        "arrayminus": [arm(value, end) for value, end in zip(values, low, strict=True)],
        "thickness": 1,
        "width": 3,
    }


def _legible(text: str, value: float | None, span: tuple[float, float]) -> str:
    """The text in black or white, whichever stands out more from the colour of its cell (WCAG 2.2, 1.4.3)."""
    if value is None:
        return text
    low, high = span
    place = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5
    channels = np.array(unlabel_rgb(sample_colorscale(_SCALE, place)[0])) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return f'<span style="color: {"#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"}">{text}</span>'


def _plain(matrix: Numbers) -> list[list[float | None]]:
    return [[float(value) if math.isfinite(value) else None for value in row] for row in matrix]
