"""Reproductions on the page: every panel as a chart and a table, the paper's numbers beside ours."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from robustdeq.reporting.page.charts import Chart, Plot
from robustdeq.reporting.tabulation import panel_table
from robustdeq.reporting.wording import label, number
from robustdeq.study import Drawing, Panel


def panel_chart(panel: Panel) -> Chart:
    """The chart of a panel, of the kind that the panel names."""
    table, reports = panel_table(panel), bool(np.isfinite(panel.reported).any())
    title, finding = label(panel.title), _finding(panel)
    if panel.drawing is Drawing.HEATMAP:
        return Chart(title, finding, table, "The more colour, the greater.", logarithmic=panel.logarithmic)
    band = "The bands" if panel.drawing is Drawing.CURVES else "The thin lines"
    notes = [f"{band}: {panel.interval}."] * (panel.low is not None)
    notes += ["The dashed line: the fit."] * bool(panel.line)
    notes += ["The paper's numbers are the open symbols."] * reports
    return Chart(title, finding, table, " ".join(notes), Plot.of(panel))


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
    rows = {name: i for i, name in enumerate(panel.rows)}
    later = [(rows[after], j) for j in range(len(panel.columns)) if (after := f"u_{j + 2}") in rows]
    hits = sum(math.isclose(panel.values[i, j], panel.values[:, j].min()) for i, j in later)
    finding = (
        f"For {hits} of {len(later)} states zₙ no attack hurts more than that on uₙ₊₁, the adjoint state after it."
    )
    return replace(
        chart,
        title="Alignment of the adjoint with the forward pass",
        finding=finding if later else chart.finding,
        note="Accuracy in % of every state (columns) under the attack on every adjoint state (rows). The more colour, "
        "the fewer images stand.",
        falling=True,
    )
