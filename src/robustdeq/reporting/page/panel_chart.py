"""Reproductions on the page: every panel as a chart and a table, the paper's numbers beside ours."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from plotly import graph_objects as go

from robustdeq.reporting.page.charts import Chart, bars, curves, heat_map, scatter, wrapped
from robustdeq.reporting.tabulation import Table, panel_table
from robustdeq.reporting.wording import label, number
from robustdeq.study import Drawing, Panel


def panel_chart(panel: Panel, span: tuple[float, float] | None = None) -> Chart:
    """The chart of a panel, of the kind that the panel names.

    Args:
        panel: the panel.
        span: the numbers at the ends of a heat map's scale of colours; 0 and 100 %, or else the least and the greatest.
    """
    table, reports = panel_table(panel), bool(np.isfinite(panel.reported).any())
    if panel.drawing is Drawing.HEATMAP:
        figure = _heat_map(panel, table, span)
        notes = [f"Rows: {panel.row_axis.lower()}."] * bool(panel.row_axis)
        notes += ["Beside ours, after a stroke, the paper's number."] * reports
    elif panel.drawing is Drawing.SCATTER:
        figure, notes = scatter(panel), [f"The thin lines: {panel.interval}."] * (panel.low is not None)
        notes += ["The dashed line: the fit."] * bool(panel.line)
    else:
        lines = panel.drawing is Drawing.CURVES
        figure, symbols = (curves(panel), "open symbols") if lines else (bars(panel), "hatched bars")
        notes = [f"The thin lines: {panel.interval}."] * (panel.low is not None)
        notes += [f"The paper's numbers are the {symbols}."] * reports
    return Chart(label(panel.title), figure, _finding(panel), table, " ".join(notes))


def _heat_map(panel: Panel, table: Table, span: tuple[float, float] | None) -> go.Figure:
    """The heat map, whose cells say our number and the paper's."""
    values = _logarithm(panel.values) if panel.logarithmic else panel.values
    finite = values[np.isfinite(values)]
    ends = span or (0.0, 100.0)
    if span is None and len(finite) and (panel.unit != "%" or panel.logarithmic):
        ends = float(finite.min()), float(finite.max())
    rows, columns = tuple(map(label, panel.rows)), tuple(map(label, panel.columns))
    texts = [[f"{c.value} / {c.reported}" if c.reported else c.value for c in row.cells] for row in table.rows]
    details = []
    for row, found in zip(rows, table.rows, strict=True):
        details.append([])
        for column, cell in zip(columns, found.cells, strict=True):
            parts = [f"{cell.value} {panel.unit}".strip()]
            parts += [f"{panel.interval} {cell.interval}"] * bool(cell.interval)
            parts += [f"paper {cell.reported}"] * bool(cell.reported)
            place = f"<b>{wrapped(row, 48)}</b>, {wrapped(column, 48)}"
            details[-1].append(f"{place}<br>{wrapped('; '.join(parts), 60)}")
    return heat_map(rows, columns, values, texts, details, ends, panel.column_axis)


def _logarithm(values: np.ndarray) -> np.ndarray:
    return np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)


def _finding(panel: Panel) -> str:
    """What the panel says it comes to, or else its least and greatest number, and how far the paper's are from ours."""
    if panel.finding:
        return f"{label(panel.finding[:1].upper() + panel.finding[1:])}."
    if not np.isfinite(panel.values).any():
        return "Nothing was measured here."

    def place(flat: np.intp) -> str:
        i, j = np.unravel_index(flat, panel.values.shape)
        value = f"{number(panel.values[i, j], panel.logarithmic)} {panel.unit}".strip()
        return f"{value} ({', '.join(filter(None, map(label, (panel.rows[i], panel.columns[j]))))})"

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
    return replace(
        chart,
        title="Alignment of the adjoint with the forward pass",
        finding=finding if later else chart.finding,
        note="Accuracy in % of every state (columns) under the attack on every adjoint state (rows).",
    )
