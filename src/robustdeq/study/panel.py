"""What an experiment found: labelled matrices of numbers with intervals, and the paper's numbers beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.base.plain import made_of, read_json
from robustdeq.base.statistics import Effect, paired_test, wilson_intervals
from robustdeq.study.finding import Finding

Matrix = Float[np.ndarray, "rows columns"]
CONFIDENCE = "95 % interval"
RANGE = "range of all rounds"
Made = TypeVar("Made")
_MATRICES = ("values", "low", "high", "paper")


class Drawing(StrEnum):
    """How a panel is best looked at."""

    HEATMAP = "heat map"
    CURVES = "curves over the columns"
    BARS = "bars"
    SCATTER = "the second column over the first, a point for each row"


@dataclass(frozen=True, eq=False)
class Panel:
    """One table, or the numbers behind one set of axes.

    Args:
        title: what it shows.
        unit: of every number, such as `"%"`.
        rows: the names of the rows.
        columns: the names of the columns.
        values: what was measured; nan where nothing is to be measured.
        row_axis: what the rows are.
        column_axis: what the columns are.
        low: the lower ends of the intervals; None where there are none.
        high: their upper ends.
        paper: what the paper reports in the same place; nan where it reports nothing, None where it has no such panel.
        drawing: how it is best looked at.
        logarithmic: whether the numbers span orders of magnitude.
        interval: what the intervals are.
        groups: what kind each row is of, told apart by colour in a scatter; empty where all are alike.
        line: the corners of a fit through the points of a scatter, each (first column, second column).
        finding: what the numbers come to, in words without a full stop.

    Raises:
        InputError: the shapes of the matrices are not those of the labels.
    """

    title: str
    unit: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Matrix
    row_axis: str = ""
    column_axis: str = ""
    low: Matrix | None = None
    high: Matrix | None = None
    paper: Matrix | None = None
    drawing: Drawing = Drawing.HEATMAP
    logarithmic: bool = False
    interval: str = CONFIDENCE
    groups: tuple[str, ...] = ()
    line: tuple[tuple[float, ...], ...] = ()
    finding: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        for name in _MATRICES:
            matrix = getattr(self, name)
            if matrix is not None and matrix.shape != shape:
                raise InputError(f"{name} of the panel {self.title!r} has shape {matrix.shape}; make it {shape}.")
        if self.groups and len(self.groups) != len(self.rows):
            raise InputError(
                f"the panel {self.title!r} has {len(self.groups)} groups for {len(self.rows)} rows; give one for each."
            )

    @property
    def reported(self) -> Matrix:
        """What the paper reports, nan where it reports nothing."""
        return np.full(self.values.shape, np.nan) if self.paper is None else self.paper

    def plain(self) -> dict[str, Any]:
        """As plain values, with null for what is not there."""
        return {name: _plain(value) if name in _MATRICES else value for name, value in vars(self).items()}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Panel:
        """The panel that `plain` wrote down; raises `KeyError`, `TypeError` or `ValueError` where it is none."""
        shape = (len(values["rows"]), len(values["columns"]))
        if 0 in shape:
            raise ValueError("it has no rows or no columns")
        matrices = {name: _matrix(values[name], shape) for name in _MATRICES}
        line = tuple(map(tuple, values.get("line", ())))
        return made_of(cls, values, **matrices, line=line, drawing=Drawing(values["drawing"]))


Panels = Iterator[Panel]


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What came of an experiment.

    Args:
        name: of the experiment, as on the command line.
        source: which table or figure of the paper it is.
        title: what it is about.
        panels: what was measured.
        remark: what the paper says of it.
        provenance: the command, the models with their fingerprints, the data, the device and the versions behind it.
        legend: how our numbers are to be read.
        findings: what became of claims.
    """

    name: str
    source: str
    title: str
    panels: tuple[Panel, ...]
    remark: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    legend: str = ""
    findings: tuple[Finding, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As plain values, with null for what is not there."""
        parts = {name: [part.plain() for part in getattr(self, name)] for name in ("findings", "panels")}
        return vars(self) | parts | {"provenance": dict(self.provenance)}

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        path = Path(path)
        write_plain(path, self.plain())

    @classmethod
    def read(cls, path: str | Path) -> Reproduction:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """
        path = Path(path)

        def made(plain: dict[str, Any]) -> Reproduction:
            panels = tuple(map(Panel.from_plain, plain["panels"]))
            findings = tuple(map(Finding.from_plain, plain.get("findings", ())))
            return made_of(cls, plain, panels=panels, findings=findings)

        return read_plain(path, made, "reproduction; make it with `robustdeq reproduce`.")


def write_plain(path: Path, plain: Mapping[str, Any]) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_plain(path: Path, make: Callable[[dict[str, Any]], Made], what: str) -> Made:
    """What is made of the plain values in a JSON file.

    Raises:
        InputError: the file cannot be read, or does not hold `what`, whose text says how to come by it.
    """
    try:
        return make(read_json(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} holds no {what}") from error


def accuracies(
    title: str,
    rows: Iterable[str],
    columns: Iterable[str],
    outcomes: Bool[np.ndarray, "rows columns samples"],
    **shown: Any,
) -> Panel:
    """A panel of accuracies in percent with their Wilson 95 % intervals.

    Args:
        title: what it shows.
        rows: their names.
        columns: their names.
        outcomes: whether each sample is classified correctly.
        shown: further settings of the panel.
    """
    low, high = np.moveaxis(100 * wilson_intervals(outcomes), -1, 0)
    return Panel(title, "%", tuple(rows), tuple(columns), 100 * outcomes.mean(axis=-1), low=low, high=high, **shown)


def averages(
    title: str,
    unit: str,
    rows: Iterable[str],
    columns: Iterable[str],
    samples: Float[np.ndarray, "rows columns samples"],
    **shown: Any,
) -> Panel:
    """A panel of means over samples with their normal 95 % intervals; settings as in `accuracies`.

    Equal samples have none: they do not show how far others vary.
    """
    mean = samples.mean(axis=-1)
    error = 1.96 * samples.std(axis=-1, ddof=min(1, samples.shape[-1] - 1)) / math.sqrt(samples.shape[-1])
    error = np.where(np.ptp(samples, axis=-1) > 0, error, np.nan)
    return Panel(title, unit, tuple(rows), tuple(columns), mean, low=mean - error, high=mean + error, **shown)


def paired(
    title: str,
    rows: Iterable[str],
    columns: Iterable[str],
    before: Bool[np.ndarray, "rows columns samples"],
    after: Bool[np.ndarray, "rows columns samples"],
    **shown: Any,
) -> Panels:
    """By how many points accuracies fall on the same images, with 95 % intervals, and McNemar's p of each fall.

    Args:
        title: what falls.
        rows: their names.
        columns: their names.
        before: whether each sample is classified correctly.
        after: whether it still is.
        shown: further settings of both panels.
    """
    tests = [[paired_test(*pair) for pair in zip(*row, strict=True)] for row in zip(after, before, strict=True)]
    yield from tested(title, "exact McNemar test", rows, columns, tests, **shown)


def tested(
    title: str,
    test: str,
    rows: Iterable[str],
    columns: Iterable[str],
    effects: Sequence[Sequence[Effect]],
    **shown: Any,
) -> Panels:
    """Differences of accuracies in points with 95 % intervals, and their p-values.

    Args:
        title: what differs.
        test: where the p-values come from.
        rows: their names.
        columns: their names.
        effects: the differences, as shares.
        shown: further settings of both panels.
    """
    rows, columns = tuple(rows), tuple(columns)
    points, low, high, p = np.moveaxis(np.array([[*map(astuple, row)] for row in effects]), -1, 0)
    yield Panel(title, "points", rows, columns, 100 * points, low=100 * low, high=100 * high, **shown)
    yield Panel(f"{title}: {test}", "p", rows, columns, p, logarithmic=True, **shown)


def bars(
    title: str, unit: str, column: str, sides: Mapping[str, float | Sequence[float]], row_axis: str, scale: float = 1.0
) -> Panel:
    """A bar for each side: its number, or the median and the range of its rounds.

    Args:
        title: what it shows.
        unit: of the numbers.
        column: what the bars are.
        sides: by name, a number each, or those of all rounds.
        row_axis: what the sides are.
        scale: by what the numbers are multiplied.
    """
    low, median, high = (
        scale * np.array([[pick(side)] for side in sides.values()]) for pick in (np.min, np.median, np.max)
    )
    ranges = {"low": low, "high": high, "interval": RANGE} if any(map(np.ndim, sides.values())) else {}
    return Panel(title, unit, tuple(sides), (column,), median, row_axis, drawing=Drawing.BARS, **ranges)


def effects(findings: Sequence[Finding]) -> Panels:
    """The effects behind some verdicts, a panel for each unit."""
    for unit in dict.fromkeys(finding.unit for finding in findings):
        rows = [finding for finding in findings if finding.unit == unit]
        values, low, high = (
            np.array([[getattr(row, name)] for row in rows], float) for name in ("effect", "low", "high")
        )
        yield Panel(
            "effects, positive where the paper's claim holds",
            unit,
            tuple(row.title for row in rows),
            ("Effect",),
            values,
            row_axis="Claim",
            low=low,
            high=high,
            drawing=Drawing.BARS,
        )


def _plain(matrix: Matrix | None) -> list[list[float | None]] | None:
    if matrix is None:
        return None
    return [[value if math.isfinite(value) else None for value in row] for row in matrix.tolist()]


def _matrix(rows: Sequence[Sequence[float | None]] | None, shape: tuple[int, int]) -> Matrix | None:
    if rows is None:
        return None
    return np.array([[math.nan if value is None else value for value in row] for row in rows], float).reshape(shape)
