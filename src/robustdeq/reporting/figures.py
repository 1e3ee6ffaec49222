"""Figures: residual and accuracy along the trajectory (paper, Figs. 2a and 2b), and the course of a training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd

from robustdeq.base.files import replace_with
from robustdeq.evaluation import GridResult

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D")


def save_profile_figure(result: GridResult, path: Path, title: str = "") -> None:
    """Draw residual and accuracy of every state, clean and attacked, and write the picture.

    Args:
        result: a grid with its profiles.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
        title: what the model is.
    """
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.6), layout="constrained")
        residuals, accuracies = figure.subplots(1, 2)
        for (name, profile), color, marker in zip(result.profiles.items(), _COLORS, _MARKERS, strict=False):
            states = range(1, len(profile.accuracy) + 1)
            style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.6, "label": name}
            residuals.semilogy(states, profile.residual, **style)
            accuracies.plot(states, [100 * share for share in profile.accuracy], **style)
        last = len(next(iter(result.profiles.values())).accuracy)
        labels = [f"$z_{{{n}}}$" for n in range(1, last)] + ["final"]
        for axes in (residuals, accuracies):
            axes.set_xticks(range(1, last + 1), labels)
            axes.grid(alpha=0.25, linewidth=0.6)
        residuals.set_ylabel("relative residual  ‖f(z)−z‖ / ‖f(z)‖")
        accuracies.set_ylabel("accuracy (%)")
        accuracies.set_ylim(0, 100)
        accuracies.legend(frameon=False, loc="lower right")
        figure.suptitle(title)
        replace_with(path, lambda temporary: figure.savefig(temporary, dpi=160))


def save_training_figure(metrics: Path, path: Path, title: str = "") -> None:
    """Draw the loss, the accuracies and the residual of a training against its steps, and write the picture.

    Args:
        metrics: the `metrics.csv` of a run.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
        title: what was trained.
    """
    table = pd.read_csv(metrics)
    panels = (
        ("loss (nats)", {"loss": "training", "jacobian": "Jacobian penalty", "correction": "correction"}, 1.0),
        ("accuracy (%)", {"accuracy": "training", "clean": "clean, held out", "robust": "attacked, held out"}, 100.0),
        ("relative residual", {"residual": "training", "final_residual": "held out"}, 1.0),
    )
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.6), layout="constrained")
        for axes, (label, series, unit) in zip(figure.subplots(1, 3), panels, strict=True):
            for (column, name), color, marker in zip(series.items(), _COLORS, _MARKERS, strict=False):
                points = table[["step", column]].dropna()
                if len(points) == 0:
                    continue
                sparse = column in ("clean", "robust", "final_residual")
                axes.plot(
                    points["step"],
                    unit * points[column],
                    color=color,
                    linewidth=1.6 if sparse else 0.8,
                    marker=marker if sparse else None,
                    markersize=4,
                    label=name,
                )
            axes.set_xlabel("step")
            axes.set_ylabel(label)
            axes.grid(alpha=0.25, linewidth=0.6)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False)
        figure.suptitle(title)
        replace_with(path, lambda temporary: figure.savefig(temporary, dpi=160))
