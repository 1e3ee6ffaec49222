"""What an experiment found: labelled matrices of numbers with intervals, and the paper's numbers beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.base.statistics import wilson_intervals

Matrix = Float[np.ndarray, "rows columns"]
CONFIDENCE = "95 % interval"
RANGE = "range of all rounds"


class Drawing(StrEnum):
    """How a panel is best looked at."""

    HEATMAP = "heat map"
    CURVES = "curves over the columns"
    BARS = "bars"


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

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        for name in ("values", "low", "high", "paper"):
            matrix = getattr(self, name)
            if matrix is not None and matrix.shape != shape:
                raise InputError(f"{name} of the panel {self.title!r} has shape {matrix.shape}; make it {shape}.")

    @property
    def reported(self) -> Matrix:
        """What the paper reports, nan where it reports nothing."""
        return np.full(self.values.shape, np.nan) if self.paper is None else self.paper

    def plain(self) -> dict[str, Any]:
        """As plain values, with null for what is not there."""
        matrices = {name: _plain(getattr(self, name)) for name in ("values", "low", "high", "paper")}
        return {
            "title": self.title,
            "unit": self.unit,
            "row_axis": self.row_axis,
            "column_axis": self.column_axis,
            "rows": list(self.rows),
            "columns": list(self.columns),
            **matrices,
            "drawing": self.drawing,
            "logarithmic": self.logarithmic,
            "interval": self.interval,
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Panel:
        """The panel that `plain` wrote down; raises `KeyError`, `TypeError` or `ValueError` where it is none."""
        settings = dict(values)
        for name in ("values", "low", "high", "paper"):
            settings[name] = _matrix(settings[name], (len(settings["rows"]), len(settings["columns"])))
        settings |= {name: tuple(settings[name]) for name in ("rows", "columns")}
        settings["drawing"] = Drawing(settings["drawing"])
        return cls(**settings)


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What came of an experiment.

    Args:
        name: of the experiment, as on the command line.
        source: which table or figure of the paper it is.
        title: what it is about.
        panels: what was measured.
        remark: what the paper says of it.
        legend: how our numbers are to be read.
        provenance: the command, the models with their fingerprints, the data, the device and the versions behind it.
    """

    name: str
    source: str
    title: str
    panels: tuple[Panel, ...]
    remark: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    legend: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain values, with null for what is not there."""
        return {
            "name": self.name,
            "source": self.source,
            "title": self.title,
            "remark": self.remark,
            "legend": self.legend,
            "panels": [panel.plain() for panel in self.panels],
            "provenance": dict(self.provenance),
        }

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_text(path, json.dumps(self.plain(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Reproduction:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """
        try:
            plain = dict(json.loads(path.read_text(encoding="utf-8")))
            panels = tuple(map(Panel.from_plain, plain.pop("panels")))
            return cls(**plain, panels=panels)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} holds no reproduction; make it with `robustdeq reproduce`.") from error


class Estimates(TypedDict):
    """Numbers with the ends of their intervals, as a panel takes them."""

    values: Matrix
    low: Matrix
    high: Matrix


def shares(outcomes: Bool[np.ndarray, "rows columns samples"]) -> Estimates:
    """Accuracies in percent with their Wilson 95 % intervals, as the matrices of a panel.

    Args:
        outcomes: whether each sample is classified correctly.
    """
    intervals = 100 * wilson_intervals(outcomes)
    return {"values": 100 * outcomes.mean(axis=-1), "low": intervals[..., 0], "high": intervals[..., 1]}


def means(samples: Float[np.ndarray, "rows columns samples"]) -> Estimates:
    """Means over samples with their normal 95 % intervals, as the matrices of a panel.

    Args:
        samples: one number per sample.
    """
    mean = samples.mean(axis=-1)
    error = 1.96 * samples.std(axis=-1, ddof=min(1, samples.shape[-1] - 1)) / math.sqrt(samples.shape[-1])
    return {"values": mean, "low": mean - error, "high": mean + error}


def _plain(matrix: Matrix | None) -> list[list[float | None]] | None:
    if matrix is None:
        return None
    return [[value if math.isfinite(value) else None for value in row] for row in matrix.tolist()]


def _matrix(rows: Sequence[Sequence[float | None]] | None, shape: tuple[int, int]) -> Matrix | None:
    if rows is None:
        return None
    return np.array([[math.nan if value is None else value for value in row] for row in rows], float).reshape(shape)
