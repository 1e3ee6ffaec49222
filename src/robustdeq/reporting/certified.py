"""Certified accuracy against the radius: as a table, and as a curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustdeq.certificates import Certified
from robustdeq.reporting.figures import save_figure
from robustdeq.reporting.tabulation import Cell, Line, Table
from robustdeq.reporting.wording import count, percent, percents

_POINTS = 400


def certified_table(found: Certified, radii: Sequence[tuple[str, float]]) -> Table:
    """The share of images that keep their correct class within each radius.

    Args:
        found: the certificates.
        radii: each as it is written, and as a number, in the units of pixels.
    """
    lines = [
        Line(f"ε = {written}", tuple(_share(found, eps, computed) for computed in _columns(found)))
        for written, eps in [("0 (clean)", 0.0), *radii]
    ]
    notes = [f"certified accuracy in % on {count(len(found.labels), 'image')}, {found.norm.name}", found.title]
    if found.tolerance is not None:
        notes.append(f"as computed: where solves end with a residual of at most {found.tolerance:.2g}")
    abstained = int((found.predicted < 0).sum())
    notes += [f"abstains on {count(abstained, 'image')}"] * (abstained > 0)
    headings = tuple("as computed" if computed else found.covers for computed in _columns(found))
    return Table("", "radius", headings, (tuple(lines),), tuple(notes), interval="Wilson 95 % interval")


def _columns(found: Certified) -> tuple[bool, ...]:
    """Whether each column is about computed states; where they are no other thing there is one."""
    return (False,) if found.tolerance is None else (False, True)


def _share(found: Certified, eps: float, computed: bool) -> Cell:
    share, *ends = found.accuracy(eps, computed)
    return Cell(percent(share), percents(np.array(ends)))


def save_certified_figure(found: Certified, path: Path, title: str = "") -> None:
    """Draw certified accuracy against the radius, and write the picture.

    Args:
        found: the certificates.
        path: the file; its suffix (`.png`, `.svg`, `.pdf`) says the format.
        title: what the model is.
    """
    furthest = float(found.radius.max()) * 1.05 or 1.0

    def draw(axes: list[Any]) -> str:
        (place,) = axes
        eps = np.linspace(0, furthest, _POINTS)
        for computed in _columns(found):
            shares = [100 * found.holds(float(radius), computed).mean() for radius in eps]
            label = "as computed" if computed else found.covers
            place.step(eps, shares, where="post", label=label, linestyle="--" if computed else "-")
        place.set_xlabel(f"ε ({found.norm.name})")
        place.set_ylabel("certified accuracy (%)")
        place.set_ylim(0, 100)
        place.grid(alpha=0.25, linewidth=0.6)
        place.legend(frameon=False)
        return title

    save_figure(path, (5.4, 3.6), (1, 1), draw)
