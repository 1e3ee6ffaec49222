"""Charts: what is drawn, what it shows in words, and the same numbers as a table."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from plotly import graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

from robustdeq.reporting.tabulation import Table
from robustdeq.reporting.wording import label
from robustdeq.study import Panel

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
        note: how to read it.
    """

    title: str
    figure: go.Figure
    finding: str
    table: Table
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

    @property
    def width(self) -> int:
        """The least width in pixels at which it can be read."""
        return self.figure.layout.width or 0


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
    lines = [*chain(*(head.split("<br>") for head in heads), *texts)]
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
    figure = go.Figure(trace, _layout(60 + len(names) * (8 + _LINE * _lines(names)) + _LINE * _lines(heads)))
    figure.update_layout(width=120 + len(heads) * max(46, 6 * max(map(len, lines)) + 10))
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


def curves(panel: Panel, paired: bool = False) -> go.Figure:
    """A line for each row, told apart by colour, symbol and dash; the paper's numbers are open symbols.

    Args:
        panel: what is drawn.
        paired: whether every second line belongs to the one before it, and has its colour and symbol.
    """
    figure = go.Figure(layout=_layout(280 + 10 * len(panel.rows)))
    heads = [wrapped(label(column), 14) for column in panel.columns]
    places, unit = [*range(len(heads))], wrapped(panel.unit, 40)
    for i, name in enumerate(wrapped(label(row), 40) for row in panel.rows):
        own, second = divmod(i, 2) if paired else (i, 0)
        symbol = _SYMBOLS[own % len(_SYMBOLS)]
        figure.add_scatter(
            x=places,
            y=_plain(panel.values[i]),
            name=name,
            mode="lines+markers",
            marker={"symbol": f"{symbol}-open" if second else symbol, "size": 8},
            line={"dash": _DASHES[(second if paired else own) % len(_DASHES)]},
            error_y=_errors(panel, i),
            meta=own,
        )
        if np.isfinite(panel.reported[i]).any():
            figure.add_scatter(
                x=places,
                y=_plain(panel.reported[i]),
                name=f"paper: {name}",
                mode="markers",
                marker={"symbol": f"{symbol}-open", "size": 12},
                meta=own,
            )
    figure.update_traces(hovertemplate=f"%{{fullData.name}}<br>%{{x}}: %{{y:.3g}} {unit}<extra></extra>")
    every = -(-len(heads) // 12)
    figure.update_xaxes(tickvals=places[::every], ticktext=heads[::every], title_text=wrapped(panel.column_axis, 40))
    figure.update_yaxes(title_text=unit)
    if panel.logarithmic:
        figure.update_yaxes(type="log", tickformat="~g")
    elif panel.unit == "%":
        figure.update_yaxes(range=(0, 102))
    return figure


def bars(panel: Panel) -> go.Figure:
    """A group of horizontal bars for each row, a bar for each column; the paper's numbers are hatched bars."""
    groups, unit = [wrapped(label(row), 24) for row in panel.rows], wrapped(panel.unit, 40)
    hatched = bool(np.isfinite(panel.reported).any())
    per_group = len(panel.columns) * (1 + hatched)
    figure = go.Figure(layout=_layout(110 + len(groups) * max(34, 22 * per_group) + 22 * per_group))
    for source, matrix, pattern in (("", panel.values, ""), ("paper: ", panel.reported, "/"))[: 1 + hatched]:
        for j, name in enumerate(panel.columns):
            figure.add_bar(
                x=_plain(matrix[:, j]),
                y=[*range(len(groups))],
                orientation="h",
                name=source + (wrapped(label(name), 40) or "ours"),
                marker={"pattern": {"shape": pattern}},
                error_x=None if source else _errors(panel, np.s_[:, j]),
                meta=j,
            )
    figure.update_traces(hovertemplate=f"%{{y}}<br>%{{fullData.name}}: %{{x:.3g}} {unit}<extra></extra>")
    figure.update_xaxes(title_text=unit, type="log" if panel.logarithmic else "linear")
    figure.update_yaxes(tickvals=[*range(len(groups))], ticktext=groups, autorange="reversed", showgrid=False)
    return figure


def scatter(panel: Panel) -> go.Figure:
    """A point for each row, its second number over its first, told apart by group; the fit is a dashed line."""
    figure = go.Figure(layout=_layout(380 + 12 * len(set(panel.groups))))
    kinds = np.array(panel.groups or ("",) * len(panel.rows))
    for i, kind in enumerate(dict.fromkeys(kinds.tolist())):
        chosen = kinds == kind
        figure.add_scatter(
            x=_plain(panel.values[chosen, 0]),
            y=_plain(panel.values[chosen, 1]),
            name=wrapped(label(kind), 40) or "ours",
            mode="markers",
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 8},
            error_y=_errors(panel, (chosen, 1)),
            customdata=[wrapped(label(row), 40) for row, mine in zip(panel.rows, chosen, strict=True) if mine],
            hovertemplate="%{customdata}<br>%{x:.3g}: %{y:.3g}<extra></extra>",
            meta=i,
        )
    if panel.line:
        x, y = zip(*panel.line, strict=True)
        figure.add_scatter(x=x, y=y, name="fit", mode="lines", line={"dash": "dash"}, meta=len(set(kinds)))
    figure.update_xaxes(title_text=wrapped(label(panel.columns[0]), 60), type="log" if panel.logarithmic else "linear")
    figure.update_yaxes(title_text=wrapped(label(panel.columns[1]), 60))
    return figure


def dots(panel: Panel, rules: Sequence[int] = ()) -> go.Figure:
    """For each row its percentages as symbols on one scale, one symbol for each column.

    Args:
        panel: what is drawn.
        rules: before which rows a line is drawn.
    """
    groups, n = [wrapped(row, 24) for row in panel.rows], len(panel.columns)
    figure = go.Figure(layout=_layout(120 + len(groups) * (12 + _LINE * _lines(groups))))
    for j, name in enumerate(panel.columns):
        figure.add_scatter(
            x=_plain(panel.values[:, j]),
            y=[i + 0.16 * (j - (n - 1) / 2) for i in range(len(groups))],
            name=wrapped(name, 40),
            mode="markers",
            marker={"symbol": _SYMBOLS[j], "size": 11},
            error_x=_errors(panel, np.s_[:, j]),
            customdata=groups,
            hovertemplate=f"%{{customdata}}<br>%{{fullData.name}}: %{{x:.1f}} {panel.unit}<extra></extra>",
            meta=j,
        )
    figure.update_xaxes(title_text=panel.unit, range=(0, 100))
    figure.update_yaxes(tickvals=[*range(len(groups))], ticktext=groups, range=(len(groups) - 0.5, -0.5))
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


def _errors(panel: Panel, place: Any) -> dict[str, Any] | None:
    """The arms of the intervals of a row or column, none where a number is missing."""
    if panel.low is None or panel.high is None:
        return None
    above, below = (np.abs(end[place] - panel.values[place]) for end in (panel.high, panel.low))
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(above, posinf=0.0).tolist(),
        "arrayminus": np.nan_to_num(below, posinf=0.0).tolist(),
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


def _plain(numbers: Numbers) -> list[Any]:
    """The numbers, with None for what is not finite."""
    plain = np.array(numbers, object)
    plain[~np.isfinite(numbers)] = None
    return plain.tolist()
