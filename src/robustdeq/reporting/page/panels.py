"""Reproductions on the page: every panel as a chart and a table, the paper's numbers beside ours."""

from __future__ import annotations

import math

import numpy as np
from plotly import graph_objects as go

from robustdeq.reporting.page.charts import Chart, Table, bars, curves, heat_map, heat_map_width
from robustdeq.reporting.page.wording import label, wrapped
from robustdeq.reporting.panels import interval, number
from robustdeq.study import Drawing, Panel


def panel_chart(panel: Panel) -> Chart:
    """A panel, drawn as it asks to be."""
    rows, columns = tuple(map(label, panel.rows)), tuple(map(label, panel.columns))
    ends = None if panel.low is None or panel.high is None else (panel.low, panel.high)
    note = "Beside ours, after a stroke, the paper's number." if _reports(panel) else ""
    width = 0
    match panel.drawing:
        case Drawing.HEATMAP:
            texts = [[_pair(panel, i, j) for j in range(len(columns))] for i in range(len(rows))]
            figure, width = _heat_map(panel, rows, columns, texts), heat_map_width(columns, texts)
            note = f"Rows: {panel.row_axis.lower()}. {note}".strip() if panel.row_axis else note
        case Drawing.CURVES:
            span = (0.0, 102.0) if panel.unit == "%" and not panel.logarithmic else None
            figure = curves(
                rows, columns, panel.values, panel.unit, panel.column_axis, ends, panel.paper, panel.logarithmic, span
            )
            note = "The paper's numbers are the open symbols." if _reports(panel) else ""
        case Drawing.BARS:
            figure = bars(rows, columns, panel.values, panel.unit, ends, panel.paper, panel.logarithmic)
            note = "The paper's numbers are the hatched bars." if _reports(panel) else ""
    if ends is not None and panel.drawing is not Drawing.HEATMAP:
        note = f"The thin lines: {panel.interval}. {note}".strip()
    table = Table(
        (panel.row_axis or "row", *columns),
        tuple((row, *(_cell(panel, i, j) for j in range(len(columns)))) for i, row in enumerate(rows)),
        _caption(panel),
    )
    return Chart(label(panel.title), figure, _finding(panel, rows, columns), table, width, note)


def _reports(panel: Panel) -> bool:
    return bool(np.isfinite(panel.reported).any())


def _heat_map(panel: Panel, rows: tuple[str, ...], columns: tuple[str, ...], texts: list[list[str]]) -> go.Figure:
    values = _logarithm(panel.values) if panel.logarithmic else panel.values
    finite = values[np.isfinite(values)]
    span = (0.0, 100.0)
    if len(finite) and (panel.unit != "%" or panel.logarithmic):
        span = float(finite.min()), float(finite.max())
    details = [
        [
            f"<b>{wrapped(row, 48)}</b>, {wrapped(column, 48)}<br>{wrapped(_detail(panel, i, j), 60)}"
            for j, column in enumerate(columns)
        ]
        for i, row in enumerate(rows)
    ]
    return heat_map(rows, columns, values, texts, details, span, panel.column_axis)


def _logarithm(values: np.ndarray) -> np.ndarray:
    return np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)


def _pair(panel: Panel, i: int, j: int) -> str:
    text = number(panel.values[i, j], panel.logarithmic)
    return f"{text} / {number(panel.reported[i, j])}" if np.isfinite(panel.reported[i, j]) else text


def _cell(panel: Panel, i: int, j: int) -> str:
    text, ends = number(panel.values[i, j], panel.logarithmic), interval(panel, i, j)
    reported = f" / {number(panel.reported[i, j])}" if np.isfinite(panel.reported[i, j]) else ""
    return f"{text}{f' ({ends})' if ends else ''}{reported}"


def _detail(panel: Panel, i: int, j: int) -> str:
    parts = [f"{number(panel.values[i, j], panel.logarithmic)} {panel.unit}".strip()]
    if ends := interval(panel, i, j):
        parts.append(f"{panel.interval} {ends}")
    if np.isfinite(panel.reported[i, j]):
        parts.append(f"paper {number(panel.reported[i, j])}")
    return "; ".join(parts)


def _caption(panel: Panel) -> str:
    said = [f"In {panel.unit}"] if panel.unit else ["Numbers without unit"]
    said += [f"in parentheses the {panel.interval}"] * (panel.low is not None)
    said += ["after a stroke the paper's number"] * _reports(panel)
    return f"{', '.join(said)}."


def _finding(panel: Panel, rows: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """The least and the greatest number, and how far the paper's are from ours."""
    if not np.isfinite(panel.values).any():
        return "Nothing was measured here."

    def place(flat: np.intp) -> str:
        i, j = np.unravel_index(flat, panel.values.shape)
        value = f"{number(panel.values[i, j], panel.logarithmic)} {panel.unit}".strip()
        return f"{value} ({', '.join(filter(None, (rows[i], columns[j])))})"

    sentence = f"From {place(np.nanargmin(panel.values))} to {place(np.nanargmax(panel.values))}."
    apart = np.abs(panel.values - panel.reported)
    known = apart[np.isfinite(apart)]
    if len(known):
        unit = "points" if panel.unit == "%" else panel.unit
        mean = f"{number(float(known.mean()))} {unit}".strip()
        sentence += f" The paper's numbers differ from ours by {mean} on average."
    return sentence


def alignment_chart(panel: Panel) -> Chart:
    """Fig. 4: accuracy of every state under attacks on every adjoint state."""
    chart = panel_chart(panel)
    later = [n for n in range(len(panel.columns)) if n + 1 < len(panel.rows)]
    hits = sum(math.isclose(panel.values[n + 1, n], panel.values[:, n].min()) for n in later)
    finding = (
        f"For {hits} of {len(later)} states zₙ no attack hurts more than that on uₙ₊₁, the adjoint state after it."
    )
    return Chart(
        "Alignment of the adjoint with the forward pass",
        chart.figure,
        finding if later else chart.finding,
        chart.table,
        chart.width,
        "Accuracy in % of every state (columns) under the attack on every adjoint state (rows).",
    )
