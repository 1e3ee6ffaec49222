"""The course of a training as a table in a file: what its columns are, how a row is written, and how all are read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdeq.base.errors import InputError
from robustdeq.base.files import read_text

METRICS = "metrics.csv"

TRAINED = ("loss", "accuracy", "jacobian", "correction", "residual", "solver_steps")
VALIDATED = ("clean", "robust", "diverged", "final_residual", "spectral_radius", "lipschitz")
COLUMNS: tuple[str, ...] = ("step", "seconds", "images_per_second", "learning_rate", *TRAINED, *VALIDATED)


def seconds_trained(folder: Path) -> float:
    """How long the training in a folder has taken so far; 0 where there is none, or its metrics are damaged.

    Args:
        folder: of the run.
    """
    try:
        rows = _rows(folder / METRICS)
    except InputError:
        return 0.0
    return float(rows[-1].get("seconds") or 0) if rows else 0.0


def line(row: Mapping[str, Any]) -> str:
    """A row of the table as it is written."""
    written = io.StringIO(newline="")
    csv.DictWriter(written, COLUMNS, restval="", lineterminator="\n").writerow(row)
    return written.getvalue()


def rows_until(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of an earlier piece of the run, up to a step, without one that was cut short."""
    return [row for row in _rows(path) if int(row["step"]) <= step] if step else []


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of metrics, without one that was cut short; raises `InputError` where they are none."""
    if not path.is_file():
        return []
    try:
        lines = [line for line in read_text(path).splitlines(keepends=True) if line.endswith("\n")]
        rows = list(csv.DictReader(lines))
        for row in rows:
            numbers = {name: float(value) for name, value in row.items() if value}
            if not row.keys() <= set(COLUMNS) or int(row["step"]) < 0 or not math.isfinite(numbers.get("seconds", 0)):
                raise ValueError("a row that was not written here")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged; delete it, and the run goes on without what it held.") from error
    return rows
