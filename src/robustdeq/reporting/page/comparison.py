"""Runs of one kind side by side, with the paper's of that kind (Table 4, and the ensemble rows of Tables 2 and 3)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robustdeq.evaluation import GridResult
from robustdeq.reporting.page.charts import Chart
from robustdeq.reporting.settings import plain
from robustdeq.reporting.tabulation import Cell, Line, Table, outcome_cell
from robustdeq.reporting.wording import label, threat
from robustdeq.study import published

_ENSEMBLE = 2
_MEASURES = ("images", "clean", "PGD", "AutoAttack", "worst case per image")
_PUBLISHED = re.compile(r"cifar-?10(?!\d)", re.IGNORECASE), "ε = 8/255 (L∞)"
_NONE = Cell("–")


def comparison_charts(results: Sequence[tuple[str, GridResult]]) -> list[Chart]:
    """Clean accuracy, the weakest column of each attack, and the worst case; a chart for what is comparable.

    Args:
        results: the name of every run, and its table.

    Returns:
        A chart for every data set and threat model that more than one row is of; ours first, then the paper's.
    """
    groups: dict[tuple[str, str], list[Line]] = {}
    for name, result in results:
        groups.setdefault(_about(result), []).append(_ours(name, result))
    charts = (_chart(about, rows, _papers() if _comparable(*about) else ()) for about, rows in groups.items())
    return [chart for chart in charts if len(chart.table.rows) > 1]


def _about(result: GridResult) -> tuple[str, str]:
    """The data set, and the threat model."""
    settings = result.settings
    data = str(settings.get("data", "")).partition(",")[0]
    return data or "images that the runs do not name", threat({"attack": plain(settings.get("attack"))})


def _comparable(data: str, bound: str) -> bool:
    """Whether the numbers of the paper are of such data and such a threat model."""
    name, published_bound = _PUBLISHED
    return bool(name.search(data)) and bound == published_bound


def _chart(about: tuple[str, str], ours: Sequence[Line], papers: Sequence[Line]) -> Chart:
    kept = "; ".join(f"{row.name}: {row.cells[-1].value} %" for row in ours)
    note = "PGD and AutoAttack: the weakest of the paper's columns. The more colour, the fewer images stand."
    if papers:
        note += (
            " The paper's models are full-sized, trained and tested on all of CIFAR-10; it used PGD-10 and AutoAttack "
            "only, so it has no worst case over all attacks, and numbers on other images do not compare with it."
        )
    groups = tuple(map(tuple, filter(None, (ours, papers))))
    table = Table("", "model", _MEASURES, groups, ("in %, a dash where there is no number",), "Wilson 95 % interval")
    title = "; ".join(filter(None, about))
    return Chart(title, f"Worst case per image, on the images of each run; {kept}.", table, note, falling=True)


def _ours(name: str, result: GridResult) -> Line:
    i, paper = 0, _NONE
    columns = [j for j, beyond in enumerate(result.beyond_paper) if not beyond]
    if result.settings.get("protocol") == "ready-made":  # beside PGD of few steps stand longer ones and Square
        columns = [j for j in columns if result.ids[j].endswith("-short")]
    if columns:
        paper = outcome_cell(result.per_sample[i, min(columns, key=lambda j: result.accuracy[i, j])])
    climbed = (_NONE, paper) if result.settings.get("protocol") == "autoattack" else (paper, _NONE)
    cells = (
        Cell(f"{result.clean.shape[1]:,}"),
        replace(outcome_cell(result.clean[i]), number=math.nan),
        *climbed,
        outcome_cell(result.standing[i]),
    )
    defense = f", {label(result.defenses[i])}" if len(result.defenses) > 1 else ""
    return Line(f"{name}{defense}", cells)


def _papers() -> list[Line]:
    """The networks of Table 4, and every DEQ under the ensemble defense."""
    deqs = {
        "DEQ-Large, exact, ensemble (Table\u00a02)": (published.EXACT_LARGE, None),
        "DEQ-Large, unrolled, ensemble (Tables\u00a02–4)": (published.UNROLLED, published.UNROLLED_AUTOATTACK),
        "DEQ-XL, unrolled, ensemble (Tables\u00a03\u00a0and\u00a04)": (published.XL, published.XL_AUTOATTACK),
    }
    networks = {"ResNet-18 (Table\u00a04)": "resnet18", "WRN-34-10 (Table\u00a04)": "wrn34-10"}
    numbers = {name: published.COMPARISON[key] for name, key in networks.items()}
    for name, (climbed, automatic) in deqs.items():
        auto = np.nan if automatic is None else automatic[_ENSEMBLE, 1:].min()
        numbers[name] = (climbed[_ENSEMBLE, 0], climbed[_ENSEMBLE, 1:].min(), auto)
    return [
        Line(f"paper: {name}", (Cell("10,000"), Cell(f"{clean:.1f}"), *map(_reported, attacked), _NONE))
        for name, (clean, *attacked) in numbers.items()
    ]


def _reported(value: float) -> Cell:
    return Cell(f"{value:.1f}", number=float(value)) if np.isfinite(value) else _NONE
