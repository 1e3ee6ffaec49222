"""Figures: panels as curves, bars and heat maps, the states of a solve, and the course of a training."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from robustdeq.base.files import replace_with
from robustdeq.evaluation import GridResult
from robustdeq.reporting.profiles import profile_panels
from robustdeq.reporting.wording import label, number
from robustdeq.study import Drawing, Panel, Reproduction

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "robustdeq",  # the same picture is the same file
}
_HEIGHTS = {Drawing.CURVES: 3.8, Drawing.SCATTER: 5.2}
_DATED = {".svg": "Date", ".pdf": "CreationDate"}
_NAMED = ("Date", "Creator", "Format", "Type")
_PAPERS: dict[str, Any] = {"linestyle": "none", "markersize": 7, "markerfacecolor": "none"}


def save_figure(
    path: Path, size: tuple[float, float], shape: tuple[int, int], draw: Callable[[list[Any]], str]
) -> None:
    """Write a figure of rows × columns axes; `draw` fills them and returns the title."""
    with matplotlib.rc_context(_STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        title = draw(figure.subplots(*shape, squeeze=False).ravel().tolist())
        figure.suptitle(_folded(title, int(12 * size[0])), fontsize=10)
        metadata = {_DATED[path.suffix]: None} if path.suffix in _DATED else {}
        replace_with(path, lambda temporary: figure.savefig(temporary, dpi=160, metadata=metadata))


def panel_svg(panel: Panel) -> str:
    """One panel as SVG, without title and legend, on nothing; what draws it is what draws the figures.

    Returns:
        The file, each of its series in a colour of `COLORS`.
    """
    with matplotlib.rc_context(_STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 0.8 * _height(panel)), layout="constrained")
        axes = figure.subplots()
        _DRAW[panel.drawing](panel, axes)
        if legend := axes.get_legend():
            legend.remove()
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(_NAMED))
    return file.getvalue()


def _style(i: int) -> dict[str, Any]:
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}


def save_drawing(reproduction: Reproduction, path: Path) -> None:
    """Draw all panels of a reproduction side by side and write the picture.

    Args:
        reproduction: what to draw.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
    """
    panels = reproduction.panels
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    size = max(map(_width, panels)) * across, max(map(_height, panels)) * down

    def draw(axes: list[Any]) -> str:
        for panel, place in zip(panels, axes, strict=False):
            _DRAW[panel.drawing](panel, place)
            place.set_title(_folded(panel.title, int(8 * size[0] / across)), fontsize=9)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        return f"{reproduction.source}: {reproduction.title}"

    save_figure(path, size, (down, across), draw)


def _width(panel: Panel) -> float:
    return max(5.0, 1.0 + 0.75 * len(panel.columns)) if panel.drawing is Drawing.HEATMAP else 6.0


def _height(panel: Panel) -> float:
    return _HEIGHTS[panel.drawing] if panel.drawing in _HEIGHTS else max(3.4, 1.2 + 0.4 * len(panel.rows))


def _curves(panel: Panel, axes: Any) -> None:
    places = range(len(panel.columns))
    for i, name in enumerate(panel.rows):
        axes.plot(places, panel.values[i], linewidth=1.5, label=_folded(name, 40), **_style(i))
        if panel.low is not None and panel.high is not None:
            axes.fill_between(places, panel.low[i], panel.high[i], color=_style(i)["color"], alpha=0.12, linewidth=0)
        if np.isfinite(panel.reported[i]).any():
            axes.plot(places, panel.reported[i], **_style(i) | _PAPERS)
    _name_columns(panel, axes, -(-len(panel.columns) // 12))
    axes.set_ylabel(panel.unit)
    if panel.logarithmic:
        _logarithmic(axes, "y", panel.values)
    elif panel.unit == "%":
        axes.set_ylim(0, 100)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)


def _bars(panel: Panel, axes: Any) -> None:
    rows, columns = panel.values.shape
    thick = 0.8 / columns
    for j, name in enumerate(panel.columns):
        places = np.arange(rows) + (j - (columns - 1) / 2) * thick
        ends, color = None, COLORS[j % len(COLORS)]
        if panel.low is not None and panel.high is not None:
            ends = np.abs([panel.values[:, j] - panel.low[:, j], panel.high[:, j] - panel.values[:, j]])
        bars = axes.barh(places, panel.values[:, j], thick, xerr=ends, color=color, label=_folded(name, 40))
        axes.bar_label(bars, [*map(number, panel.values[:, j].tolist())], padding=3, fontsize=8)
        if np.isfinite(panel.reported[:, j]).any():
            axes.plot(panel.reported[:, j], places, marker="D", color="black", **_PAPERS)
    axes.set_yticks(range(rows), [_folded(row) for row in panel.rows])
    axes.invert_yaxis()
    if panel.logarithmic:
        _logarithmic(axes, "x", panel.values)
    axes.set_xlabel(panel.unit)
    axes.margins(x=0.15)
    if columns > 1:
        axes.legend(frameon=False, fontsize=8)


def _scatter(panel: Panel, axes: Any) -> None:
    kinds = np.array(panel.groups or ("",) * len(panel.rows))
    for i, kind in enumerate(dict.fromkeys(kinds.tolist())):
        x, y = panel.values[kinds == kind, :2].T
        ends = None
        if panel.low is not None and panel.high is not None:
            ends = np.abs([y - panel.low[kinds == kind, 1], panel.high[kinds == kind, 1] - y])
        named = _folded(kind, 40) or None
        axes.errorbar(x, y, ends, linestyle="none", elinewidth=0.5, alpha=0.8, label=named, **_style(i))
    if panel.line:
        axes.plot(*zip(*panel.line, strict=True), color="black", linewidth=1.2, linestyle="--")
    if panel.logarithmic:
        _logarithmic(axes, "x", panel.values[:, 0])
    axes.set_xlabel(_folded(panel.columns[0], 60))
    axes.set_ylabel(_folded(panel.columns[1], 40))
    axes.grid(alpha=0.25, linewidth=0.6)
    if panel.groups:
        axes.legend(frameon=False, fontsize=7)


def _heatmap(panel: Panel, axes: Any) -> None:
    values = np.log10(panel.values) if panel.logarithmic else panel.values
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
    for i, j in np.ndindex(values.shape):
        dark = np.isfinite(values[i, j]) and image.norm(values[i, j]) < 0.5
        text = number(float(panel.values[i, j]), panel.logarithmic)
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    _name_columns(panel, axes)
    axes.set_yticks(range(len(panel.rows)), [_folded(row) for row in panel.rows])
    axes.set_ylabel(panel.row_axis)


def _logarithmic(axes: Any, side: str, values: np.ndarray) -> None:
    """A logarithmic axis, "x" or "y", with plain numbers, for which every viewer has the letters; where it has any."""
    from matplotlib.ticker import LogFormatter

    if not (np.isfinite(values) & (values > 0)).any():
        return
    axes.set(**{f"{side}scale": "log"})
    axis = getattr(axes, f"{side}axis")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(LogFormatter())


def _name_columns(panel: Panel, axes: Any, every: int = 1) -> None:
    """The columns below the axes, slanted where they would not stand beside each other."""
    names = [_folded(column, 14) for column in panel.columns[::every]]
    longest = max(len(line) for name in names for line in name.splitlines() or [""])
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if longest * len(names) > 60 else {}
    axes.set_xticks(range(len(panel.columns))[::every], names, **slanted)
    axes.set_xlabel(panel.column_axis)


def _folded(name: str, letters: int = 24) -> str:
    """A name as it is set, in lines of so many letters at most."""
    return textwrap.fill(label(name), letters)


_DRAW = {Drawing.CURVES: _curves, Drawing.BARS: _bars, Drawing.HEATMAP: _heatmap, Drawing.SCATTER: _scatter}


def save_profile_figure(result: GridResult, path: Path) -> None:
    """Draw residual and accuracy of every state, clean and attacked (paper, Figs. 2a and 2b), and write the picture.

    Args:
        result: a grid with its profiles.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
    """

    def draw(axes: list[Any]) -> str:
        for panel, place in zip(profile_panels(result.profiles), axes, strict=True):
            _curves(panel, place)
            place.set_title(panel.title, fontsize=9)
        return ""

    save_figure(path, (9, 3.6), (1, 2), draw)


_LOSSES = {"loss": "training", "jacobian": "Jacobian penalty", "correction": "correction"}
_COURSES: dict[str, tuple[float, dict[str, str], dict[str, str]]] = {
    "loss (nats)": (1.0, _LOSSES, {}),
    "accuracy (%)": (100.0, {"accuracy": "training"}, {"clean": "clean, held out", "robust": "attacked, held out"}),
    "relative residual": (1.0, {"residual": "training"}, {"final_residual": "held out"}),
}
"""For each axis its unit, and the names of its columns: of every step, and of the validations."""


def save_training_figure(metrics: Path, path: Path) -> None:
    """Draw the loss, the accuracies and the residual of a training against its steps, and write the picture.

    Args:
        metrics: the `metrics.csv` of a run.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
    """
    table = pd.read_csv(metrics)

    def draw(axes: list[Any]) -> str:
        for place, (axis, (unit, stepwise, validated)) in zip(axes, _COURSES.items(), strict=True):
            for i, (column, name) in enumerate((stepwise | validated).items()):
                points = table[["step", column]].dropna()
                if len(points) == 0:
                    continue
                style = _style(i) | ({"marker": None, "linewidth": 0.8} if column in stepwise else {"linewidth": 1.6})
                place.plot(points["step"], unit * points[column], label=name, **style)
            place.set_xlabel("step")
            place.set_ylabel(axis)
            place.grid(alpha=0.25, linewidth=0.6)
            if place.get_legend_handles_labels()[0]:
                place.legend(frameon=False)
        return ""

    save_figure(path, (12, 3.6), (1, 3), draw)
