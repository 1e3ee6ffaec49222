"""Accuracy against the radius, from below by certificates and from above by attacks: as a table, and as a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from robustdeq.base.statistics import wilson_intervals
from robustdeq.certificates import Certified
from robustdeq.reporting.figures import COLORS, save_figure
from robustdeq.reporting.tabulation import Line, Table, outcome_cell
from robustdeq.reporting.wording import count

_POINTS = 400
Attacked = Mapping[float, Bool[np.ndarray, "samples"]]
"""Which images withstand all attacks, for each radius at which they were attacked."""


def certified_table(found: Certified, radii: Sequence[tuple[str, float]], attacked: Attacked | None = None) -> Table:
    """The share of images that keep their correct class within each radius.

    Args:
        found: the certificates.
        radii: each as it is written, and as a number, in the units of pixels.
        attacked: what attacks on the same model and images leave; None where there were none.
    """
    written = {eps: f"{eps:g}" for eps in attacked or {}} | {eps: name for name, eps in radii} | {0.0: "0 (clean)"}
    lines = [
        Line(
            f"ε = {written[eps]}",
            (
                *([] if attacked is None else [outcome_cell(attacked.get(eps))]),
                *(outcome_cell(found.holds(eps, computed)) for computed in _columns(found)),
            ),
        )
        for eps in sorted(written)
    ]
    notes = [f"accuracy in % on {count(len(found.labels), 'image')}, {found.norm.name}", found.title]
    if found.tolerance is not None:
        notes.append(f"as computed: where solves end with a residual of at most {found.tolerance:.2g}")
    abstained = int((found.predicted < 0).sum())
    notes += [f"abstains on {count(abstained, 'image')}"] * (abstained > 0)
    headings = [_heading(found, computed) for computed in _columns(found)]
    above = [] if attacked is None else ["attacks leave"]
    return Table("", "radius", (*above, *headings), (tuple(lines),), tuple(notes), interval="Wilson 95 % interval")


def _columns(found: Certified) -> tuple[bool, ...]:
    """Whether each column is about computed states; where they are no other thing there is one."""
    return (False,) if found.tolerance is None else (False, True)


def _heading(found: Certified, computed: bool) -> str:
    return "certified, as computed" if computed else f"certified: {found.covers}"


def save_certified_figure(found: Certified, path: Path, title: str = "", attacked: Attacked | None = None) -> None:
    """Draw certified accuracy against the radius, below what attacks leave, the gap between both shaded.

    No image that falls within some radius stands within a larger one. So between two radii at which it was attacked, a
    model is no more robust than attacks say at the smaller one.

    Args:
        found: the certificates.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
        title: what the model is.
        attacked: what attacks on the same model and images leave; None where there were none.
    """
    above = {0.0: found.correct} | dict(sorted((attacked or {}).items()))
    furthest = max(float(found.radius.max()), *above) * 1.05 or 1.0

    def draw(axes: list[Any]) -> str:
        (place,) = axes
        eps = np.linspace(0, furthest, _POINTS)
        curves = {
            computed: 100 * np.array([found.holds(radius, computed).mean() for radius in eps.tolist()])
            for computed in _columns(found)
        }
        for computed, shares in curves.items():
            style = {"color": COLORS[0], "linestyle": "--" if computed else "-"}
            place.step(eps, shares, where="post", label=_heading(found, computed), **style)
        if attacked:
            radii = np.array([*above])
            left, (low, high) = 100 * np.stack([*above.values()]).mean(axis=1), _ends(above)
            upper = left[np.searchsorted(radii, eps, side="right") - 1]
            place.step(eps, upper, where="post", color=COLORS[1], linewidth=0.8)
            place.errorbar(
                radii, left, (left - low, high - left), fmt="o", markersize=4, color=COLORS[1], label="attacks leave"
            )
            lower = curves[_columns(found)[-1]]
            place.fill_between(eps, lower, upper, step="post", alpha=0.15, color=COLORS[0], label="unknown")
        place.set_xlabel(f"ε ({found.norm.name})")
        place.set_ylabel("accuracy (%)")
        place.set_ylim(0, 100)
        place.grid(alpha=0.25, linewidth=0.6)
        place.legend(frameon=False)
        return title

    save_figure(path, (5.4, 3.6), (1, 1), draw)


def _ends(above: Attacked) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.moveaxis(100 * wilson_intervals(np.stack([*above.values()])), -1, 0)
    return low, high
