"""Panels as pictures: curves, bars and heat maps, in the format of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from robustdeq.base.files import replace_with
from robustdeq.reporting.panels import number
from robustdeq.study import Drawing, Panel, Reproduction

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "robustdeq",  # the same picture is the same file
}


def save_drawing(reproduction: Reproduction, path: Path) -> None:
    """Draw all panels of a reproduction side by side and write the picture.

    Args:
        reproduction: what to draw.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
    """
    panels = reproduction.panels
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    with matplotlib.rc_context(_STYLE):
        from matplotlib.figure import Figure

        size = max(map(_width, panels)) * across, max(map(_height, panels)) * down
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
        for panel, place in zip(panels, axes, strict=False):
            _DRAW[panel.drawing](panel, place)
            place.set_title(panel.title, fontsize=9)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        figure.suptitle(f"{reproduction.source}: {reproduction.title}", fontsize=10)
        dated = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix)
        metadata = {} if dated is None else {dated: None}
        replace_with(path, lambda temporary: figure.savefig(temporary, dpi=160, metadata=metadata))


def _width(panel: Panel) -> float:
    return max(5.0, 1.0 + 0.75 * len(panel.columns)) if panel.drawing is Drawing.HEATMAP else 6.0


def _height(panel: Panel) -> float:
    return max(3.4, 1.2 + 0.4 * len(panel.rows)) if panel.drawing is not Drawing.CURVES else 3.8


def _curves(panel: Panel, axes: Any) -> None:
    places = range(len(panel.columns))
    for i, name in enumerate(panel.rows):
        style = {"color": COLORS[i % len(COLORS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 4}
        axes.plot(places, panel.values[i], linewidth=1.5, label=name, **style)
        if panel.low is not None and panel.high is not None:
            axes.fill_between(places, panel.low[i], panel.high[i], color=style["color"], alpha=0.12, linewidth=0)
    every = -(-len(panel.columns) // 12)
    axes.set_xticks(places[::every], [_label(name) for name in panel.columns[::every]])
    axes.set_xlabel(panel.column_axis)
    axes.set_ylabel(panel.unit)
    if panel.logarithmic:
        axes.set_yscale("log")
    elif panel.unit == "%":
        axes.set_ylim(0, 100)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)


def _bars(panel: Panel, axes: Any) -> None:
    rows, columns = panel.values.shape
    thick = 0.8 / columns
    for j, name in enumerate(panel.columns):
        places = np.arange(rows) + (j - (columns - 1) / 2) * thick
        ends = None
        if panel.low is not None and panel.high is not None:
            ends = np.abs([panel.values[:, j] - panel.low[:, j], panel.high[:, j] - panel.values[:, j]])
        bars = axes.barh(places, panel.values[:, j], thick, xerr=ends, color=COLORS[j % len(COLORS)], label=name)
        shown = [number(value) for value in map(float, panel.values[:, j])]
        axes.bar_label(bars, shown, padding=3, fontsize=8)
    axes.set_yticks(range(rows), panel.rows)
    axes.invert_yaxis()
    axes.set_xlabel(panel.unit)
    axes.margins(x=0.15)
    if columns > 1:
        axes.legend(frameon=False, fontsize=8)


def _heatmap(panel: Panel, axes: Any) -> None:
    values = np.log10(panel.values) if panel.logarithmic else panel.values
    low, high = (0.0, 100.0) if panel.unit == "%" else (np.nanmin(values), np.nanmax(values))
    axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for i, j in np.ndindex(values.shape):
        dark = np.isfinite(values[i, j]) and values[i, j] < (low + high) / 2
        text = number(float(panel.values[i, j]), panel.logarithmic)
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    slanted = max(map(len, panel.columns)) > 8
    axes.set_xticks(range(len(panel.columns)), [_label(name) for name in panel.columns])
    axes.tick_params(axis="x", rotation=30 if slanted else 0)
    axes.set_yticks(range(len(panel.rows)), [_label(name) for name in panel.rows])
    axes.set_xlabel(panel.column_axis)
    axes.set_ylabel(panel.row_axis)


_DRAW = {Drawing.CURVES: _curves, Drawing.BARS: _bars, Drawing.HEATMAP: _heatmap}


def _label(name: str) -> str:
    """z_3 and u_3 as mathematics."""
    letter, _, index = name.partition("_")
    return f"${letter}_{{{index}}}$" if letter in ("z", "u") and index.isdigit() else name
