"""Charts: what is drawn, what it shows in words, and its numbers as a table; of a matrix that table is the chart."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from robustdeq.reporting.figures import COLORS, MARKERS, panel_svg
from robustdeq.reporting.tabulation import Cell, Table
from robustdeq.reporting.wording import label
from robustdeq.study import Drawing, Panel

_SYMBOLS = dict(zip("os^DvPX*", "●■▲◆▼✚✖★", strict=True))
_COLORS = {color.lower(): f"var(--series-{i})" for i, color in enumerate(COLORS) if color != "#000000"}


@dataclass(frozen=True)
class Plot:
    """A drawing.

    Attributes:
        code: the SVG element; the page gives the colours of the figures those of its theme.
        key: the name of every series, the index of its colour, and its symbol.
    """

    code: str
    key: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, panel: Panel) -> Plot:
        """The drawing of a panel that is no heat map."""
        bars = panel.drawing is Drawing.BARS
        names = panel.groups if panel.drawing is Drawing.SCATTER else panel.columns if bars else panel.rows
        series = enumerate(dict.fromkeys(names) if len(names) > 1 else ())
        symbols = [_SYMBOLS[marker] for marker in MARKERS]
        key = ((label(name), i % len(COLORS), "■" if bars else symbols[i % len(symbols)]) for i, name in series)
        return cls(_themed(panel_svg(panel)), tuple(key))

    def svg(self, number: int) -> Markup:
        """The element for a page on which it has this number, so that its identifiers are its own."""
        return Markup(re.sub(r'( id="|href="#|url\(#)', rf"\g<1>d{number}-", self.code))


def _themed(svg: str) -> str:
    """The element alone, with no identifier that nothing refers to, its colours and letters those of the page."""
    element = re.sub(r"<defs>\s*<style.*?</defs>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    referred = {*re.findall(r'(?:href="#|url\(#)(\w+)', element)}
    element = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", element)
    return re.sub(r'style="[^"]*"', lambda found: _style(found[0]), element)


def _style(attribute: str) -> str:
    plain = re.sub("font-family: [^;]*; ", "", attribute)
    return re.sub("#[0-9a-f]{6}", lambda found: _COLORS.get(found[0], "currentColor"), plain)


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: what it is about.
        finding: what it shows, in words.
        table: its numbers.
        note: how to read it.
        plot: the drawing; None where the table is the chart, its cells coloured by their numbers.
        logarithmic: whether the colours follow the logarithms.
        falling: whether the least number has the strongest colour.
    """

    title: str
    finding: str
    table: Table
    note: str = ""
    plot: Plot | None = None
    logarithmic: bool = False
    falling: bool = False

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number that is there, nan where there is none: the ends of the colours."""
        known = [cell.number for row in self.table.rows for cell in row.cells if math.isfinite(self._place(cell))]
        return min(known, default=math.nan), max(known, default=math.nan)

    def strength(self, cell: Cell) -> float | None:
        """How strong the colour of a cell is, from 0 to 1; None where it has no number."""
        place = self._place(cell)
        if not math.isfinite(place):
            return None
        low, high = (self._place(Cell("", number=end)) for end in self.ends)
        part = (place - low) / (high - low) if high > low else 0.5
        return round(1 - part if self.falling else part, 3)

    def _place(self, cell: Cell) -> float:
        if not self.logarithmic:
            return cell.number
        return math.log10(cell.number) if cell.number > 0 else math.nan
