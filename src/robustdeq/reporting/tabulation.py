"""Tables as plain values, built once from what was measured; `terminal`, `markdown`, `latex` and the page render them.

A cell reads the same everywhere: the number, its interval in parentheses, and after a stroke the paper's number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np
from jaxtyping import Bool, Float

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import CheckVerdict, GridResult
from robustdeq.reporting.settings import said
from robustdeq.reporting.wording import count, measured, number, percent, percents, span
from robustdeq.study import EXPERIMENTS, Finding, Panel, Scale, Verdict
from robustdeq.study.bench import Claim
from robustdeq.study.experiment import BEYOND
from robustdeq.study.panel import CONFIDENCE, RANGE
from robustdeq.study.times import Time, measured_times


class Emphasis(Enum):
    """What a cell is to stand out for."""

    NONE = auto()
    WEAKEST = auto()
    WORST = auto()
    GOOD = auto()
    BAD = auto()


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        value: the number, or words.
        interval: the ends of its interval; empty where it has none.
        reported: the paper's number in the same place; empty where it has none.
        emphasis: what it stands out for.
        number: the number itself, in the unit of the table, where a colour may show it; nan where none may.
    """

    value: str
    interval: str = ""
    reported: str = ""
    emphasis: Emphasis = Emphasis.NONE
    number: float = math.nan

    @property
    def text(self) -> str:
        """All of it, without emphasis."""
        return self.value + (self.interval and f" ({self.interval})") + (self.reported and f" / {self.reported}")


@dataclass(frozen=True)
class Line:
    """One row.

    Args:
        name: its heading.
        cells: one for each column.
        details: what a wide medium adds to it.
        summary: whether it sums up others, and is set in bold.
    """

    name: str
    cells: tuple[Cell, ...]
    details: tuple[str, ...] = ()
    summary: bool = False


@dataclass(frozen=True)
class Table:
    """Headings, rows and notes.

    Args:
        title: what it is about.
        corner: what its rows are.
        columns: the headings of the columns.
        groups: the rows, with a line between the groups.
        notes: what its cells are.
        interval: what the intervals are; empty where there are none.
        column_axis: what its columns are.
        details: the headings of what a wide medium adds to the rows.
        words: whether its cells are words, which are set from the left.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    groups: tuple[tuple[Line, ...], ...]
    notes: tuple[str, ...] = ()
    interval: str = ""
    column_axis: str = ""
    details: tuple[str, ...] = ()
    words: bool = False

    @classmethod
    def of(cls, corner: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> Table:
        """A table of plain texts; the first of a row is its name."""
        body = tuple(Line(name, tuple(map(Cell, texts))) for name, *texts in rows)
        return cls("", corner, tuple(columns), (body,), notes)

    @property
    def rows(self) -> tuple[Line, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group)

    @property
    def caption(self) -> str:
        """What the cells are and how they are read."""
        cells = [cell for row in self.rows for cell in row.cells]
        said = [*self.notes]
        said += [f"in parentheses the {self.interval}"] * any(cell.interval for cell in cells)
        said += ["after a stroke the paper's number"] * any(cell.reported for cell in cells)
        weakest = any(cell.emphasis is Emphasis.WEAKEST for cell in cells)
        return "; ".join(said + ["underlined the weakest of the paper's attacks"] * weakest)

    def turned(self) -> Table:
        """The table on its side: rows become columns."""
        cells = zip(*(row.cells for row in self.rows), strict=True)
        body = tuple(Line(name, column) for name, column in zip(self.columns, cells, strict=True))
        columns = tuple(row.name for row in self.rows)
        return replace(self, corner=self.column_axis, column_axis=self.corner, columns=columns, groups=(body,))

    def parted(self, parts: int) -> list[Table]:
        """The table in parts, each with some of its columns."""
        size = -(-len(self.columns) // parts)
        return [self._of_cells(slice(first, first + size)) for first in range(0, len(self.columns), size)]

    def without_intervals(self) -> Table:
        """The table without its intervals."""
        return self._of_cells(slice(None), interval="")

    def _of_cells(self, columns: slice, **changed: str) -> Table:
        """Some columns of the table, with cells of which something is changed."""
        groups = tuple(
            tuple(replace(row, cells=tuple(replace(cell, **changed) for cell in row.cells[columns])) for row in group)
            for group in self.groups
        )
        return replace(self, columns=self.columns[columns], groups=groups)


def _share(share: float, ends: Float[np.ndarray, "two"], emphasis: Emphasis = Emphasis.NONE) -> Cell:
    return Cell(percent(share), percents(ends), emphasis=emphasis, number=100 * share)


def outcome_cell(outcome: Bool[np.ndarray, "samples"] | None) -> Cell:
    """The share of images that stand, with its interval; a dash where nothing was measured."""
    return Cell("–") if outcome is None else _share(outcome.mean(), wilson_intervals(outcome))


def grid_table(result: GridResult, title: str = "") -> Table:
    """The defense × attack table in percent with Wilson 95 % intervals, an attack a row; the paper's stand first.

    Below the attacks stand the paper's measure (the minimum) and the worst case per image over everything.
    """
    defenses, papers = range(len(result.defenses)), result.beyond_paper.count(False)
    clean = (replace(outcome_cell(outcome), number=math.nan) for outcome in result.clean)
    attacks = []
    for j in sorted(range(len(result.columns)), key=result.beyond_paper.__getitem__):
        beyond, cumulative = result.beyond_paper[j], bool(result.cumulative) and result.cumulative[j]
        kind = ("beyond the paper" if beyond else "the paper's") + ", on survivors" * cumulative
        weakest = [not beyond and result.accuracy[i, j] == result.robustness[i] for i in defenses]
        marks = [Emphasis.WEAKEST if weak else Emphasis.NONE for weak in weakest]
        cells = tuple(map(_share, result.accuracy[:, j], result.intervals[:, j], marks))
        attacks.append(Line(result.columns[j] + " ↓" * cumulative, cells, (kind, said(result.gradients[j]))))
    worst = map(_share, result.worst_case, result.worst_case_intervals, [Emphasis.WORST] * len(defenses))
    summary = [Line("worst case per image, all attacks", tuple(worst), ("all of them", "–"), summary=True)]
    if papers:
        minimum = tuple(Cell(percent(share), number=100 * share) for share in result.robustness)
        summary.insert(0, Line("minimum of the paper's columns", minimum, ("the paper's measure", "–"), summary=True))
    if result.certified is not None:
        held = _share(result.certified.mean(), wilson_intervals(result.certified))
        nothing = (Cell("–"),) * (len(result.defenses) - 1)
        summary.append(Line("certified", (held, *nothing), (result.certificate, "–"), summary=True))
    if any(result.errors):
        errors = tuple(Cell(str(images)) for images in result.errors)
        summary.append(Line("images with logits that are not finite", errors, ("count as errors", "–")))
    missing = [Line(name, (Cell("n/a"),) * len(defenses), ("not made", why)) for name, why in result.missing.items()]
    clean_line = Line("clean", tuple(clean), ("–", "–"), summary=True)
    groups = [(clean_line,), attacks[:papers], attacks[papers:], missing, summary]
    notes = [f"accuracy in % on {count(result.clean.shape[1], 'image')}"]
    notes += [f"n/a: {why.rstrip('.')}" for why in dict.fromkeys(result.missing.values())]
    if any(result.cumulative):
        notes.append("↓ made on what withstood all attacks above, which it includes")
    return Table(
        title,
        "attack",
        tuple(result.defenses),
        tuple(tuple(group) for group in groups if group),
        tuple(notes),
        interval="Wilson 95 % interval",
        details=("kind", "gradient"),
    )


_EMPHASIS = {CheckVerdict.PASSED: Emphasis.GOOD, CheckVerdict.FAILED: Emphasis.BAD}


def checks_table(result: GridResult) -> Table:
    """What the attacks say about themselves: for each check its verdict and the numbers behind it."""
    rows = []
    for check in result.checks:
        verdict = Cell(str(check.verdict), emphasis=_EMPHASIS.get(check.verdict, Emphasis.NONE))
        numbers = "; ".join(
            f"{defense}: " + ", ".join(f"{name} {measured(name, value)}" for name, value in found.items())
            for defense, found in check.numbers.items()
        )
        rows.append((Line(check.name, (verdict, Cell(f"{check.sentence}\n{numbers}"))),))
    return Table("can the attacks be trusted?", "check", ("verdict", "what was found"), tuple(rows), words=True)


def panel_table(panel: Panel) -> Table:
    """The numbers of a panel with their intervals, the paper's beside them."""
    log, nowhere = panel.logarithmic, np.full(panel.values.shape, np.nan)
    low, high = (nowhere if ends is None else ends for ends in (panel.low, panel.high))

    def cell(i: int, j: int) -> Cell:
        value, reported = panel.values[i, j], panel.reported[i, j]
        ends = span(low[i, j], high[i, j], log)
        return Cell(number(value, log), ends, number(reported) if np.isfinite(reported) else "", number=value)

    rows = (Line(name, tuple(cell(i, j) for j in range(len(panel.columns)))) for i, name in enumerate(panel.rows))
    notes = tuple(filter(None, (panel.unit and f"in {panel.unit}", panel.finding)))
    return Table(panel.title, panel.row_axis, panel.columns, (tuple(rows),), notes, panel.interval, panel.column_axis)


def claims_table(claims: Sequence[Claim]) -> Table:
    """Ratios beside the bounds that they are to keep."""
    rows = (
        Line(
            claim.subject,
            (
                Cell(f"{claim.ratio:.2f}", "" if claim.low == claim.high else f"{claim.low:.2f}–{claim.high:.2f}"),
                Cell(f"{'≥' if claim.at_least else '≤'} {claim.bound:g}"),
                Cell("yes") if claim.holds else Cell("no", emphasis=Emphasis.BAD),
            ),
        )
        for claim in claims
    )
    return Table("", "ratio", ("measured", "bound", "holds"), (tuple(rows),), interval=RANGE)


def findings_table(findings: Sequence[Finding]) -> Table:
    """What became of each claim: its verdict, and the numbers behind it."""
    rows = (
        Line(
            finding.claim,
            (
                Cell(finding.source),
                Cell(finding.verdict, emphasis=_VERDICTS.get(finding.verdict, Emphasis.NONE)),
                Cell(f"{number(finding.effect)} {finding.unit}", span(finding.low, finding.high)),
                Cell(f"{finding.p:.2g}"),
                Cell(f"{finding.seeds} × {finding.images:,}"),
            ),
        )
        for finding in findings
    )
    columns = ("where", "verdict", "effect", "p", "seeds × images")
    scales = ", ".join(dict.fromkeys(finding.scale for finding in findings))
    return Table("", "claim", columns, (tuple(rows),), (f"scale {scales}",), interval=CONFIDENCE, words=True)


_VERDICTS = {Verdict.HOLDS: Emphasis.GOOD, Verdict.REVERSED: Emphasis.BAD}


def experiments_table(scale: Scale) -> Table:
    """Everything that can be reproduced, and what each needs at a scale."""
    times = measured_times().get(scale.name, {})
    rows = []
    for name, experiment in EXPERIMENTS.items():
        ways = ", ".join(way.name for way in experiment.configurations) or "none"
        both = experiment.every_size and len(scale.sizes) > 1
        source = "" if experiment.source == BEYOND else f"{experiment.source}: "
        needs = f"models: {ways}" + f" ({' and '.join(scale.sizes)})" * both
        took = f"; measured time: {_time(times[name])}" if name in times else ""
        rows.append(Line(name, (Cell(f"{source}{experiment.title}\n{needs}{took}"),)))
    notes = [f"A model that is missing is trained once, for all that need it: {scale.time} each."]
    if times:
        places = sorted({f"{time.device}, {count(time.threads, 'thread')}" for time in times.values()})
        notes.append(f"The times, of each alone and from nothing, are a guide: {' and '.join(places)}.")
    title = f"what can be reproduced, at the scale {scale.name}"
    return Table(title, "name", ("what it is, and what it needs",), (tuple(rows),), (" ".join(notes),), words=True)


def _time(time: Time) -> str:
    """How long an experiment takes, and on what."""
    took = f"{time.seconds:.0f} s" if time.seconds < 100 else f"{time.seconds / 60:.0f} min"
    return f"{took}, {time.images} images{', weights given' * time.given}"
