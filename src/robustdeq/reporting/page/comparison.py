"""All runs side by side, and the paper's rows with them (Table 4, and the ensemble rows of Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import GridResult
from robustdeq.reporting.page.charts import Chart, dots
from robustdeq.reporting.page.grid_charts import best
from robustdeq.reporting.tabulation import Cell, Line, Table
from robustdeq.reporting.wording import label, number, span, threat
from robustdeq.study import published

_ENSEMBLE = 2
_MEASURES = ("clean", "PGD", "AutoAttack", "worst case per image")


@dataclass(frozen=True)
class _Model:
    """A model with its measures in percent and the ends of their intervals; nan where there is none."""

    name: str
    where: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def comparison_chart(results: Sequence[tuple[str, GridResult]]) -> Chart:
    """Clean accuracy, the weakest column of each attack, and the worst case, ours first, then the paper's.

    Args:
        results: the name of every run, and its table.
    """
    ours, papers = [_ours(name, result) for name, result in results], _papers()
    rows = [*ours, *papers]
    values, low, high = (np.array([getattr(row, name) for row in rows]) for name in ("values", "low", "high"))
    names = tuple(row.name for row in rows)
    kept = "; ".join(f"{row.name}: {number(row.values[3])} %" for row in ours)
    return Chart(
        "All runs, and the paper's",
        dots(names, _MEASURES, values, "%", (low, high), (len(ours),)),
        f"Worst case per image, on the images and within the bound of each run; {kept}.",
        Table(
            "",
            "model",
            ("images and bound", *_MEASURES),
            (tuple(map(_row, rows)),),
            ("in %", "a dash where there is no number"),
            "Wilson 95 % interval",
        ),
        note="PGD and AutoAttack: the weakest of the paper's columns. The paper's models are full-sized, trained and "
        "tested on all of CIFAR-10, within 8/255 in L∞; it used PGD-10 and AutoAttack only, so it has no worst case "
        "over all attacks, and numbers on other images or bounds do not compare with it.",
    )


def _row(model: _Model) -> Line:
    ends = zip(model.low, model.high, strict=True)
    cells = (Cell(number(value), span(*pair)) for value, pair in zip(model.values, ends, strict=True))
    return Line(model.name, (Cell(model.where), *cells))


def _ours(name: str, result: GridResult) -> _Model:
    i = best(result)
    none = (np.nan, np.nan, np.nan)
    columns = [j for j, beyond in enumerate(result.beyond_paper) if not beyond]
    paper = none
    if columns:
        weakest = min(columns, key=lambda j: result.accuracy[i, j])
        paper = (result.accuracy[i, weakest], *result.intervals[i, weakest])
    pgd, auto = (none, paper) if result.settings.get("protocol") == "autoattack" else (paper, none)
    measured = (
        (result.clean[i].mean(), *wilson_intervals(result.clean)[i]),
        pgd,
        auto,
        (result.worst_case[i], *result.worst_case_intervals[i]),
    )
    values, low, high = (tuple(100 * float(measure[k]) for measure in measured) for k in range(3))
    defense = f", {label(result.defenses[i])}" if len(result.defenses) > 1 else ""
    bound = threat(result.settings)
    data = str(result.settings.get("data", ""))
    where = "; ".join(filter(None, (f"{result.clean.shape[1]:,} images", data, bound)))
    return _Model(f"{name}{defense}", where, values, low, high)


def _papers() -> list[_Model]:
    """The networks of Table 4, and every DEQ under the ensemble defense."""
    deqs = {
        "DEQ-Large, exact, ensemble (Table\u00a02)": (published.EXACT_LARGE, None),
        "DEQ-Large, unrolled, ensemble (Tables\u00a02–4)": (published.UNROLLED, published.UNROLLED_AUTOATTACK),
        "DEQ-XL, unrolled, ensemble (Tables\u00a03\u00a0and\u00a04)": (published.XL, published.XL_AUTOATTACK),
    }
    networks = {"ResNet-18 (Table\u00a04)": "resnet18", "WRN-34-10 (Table\u00a04)": "wrn34-10"}
    numbers = {name: published.COMPARISON[key] for name, key in networks.items()}
    for name, (climbed, automatic) in deqs.items():
        auto = np.nan if automatic is None else float(automatic[_ENSEMBLE, 1:].min())
        numbers[name] = (float(climbed[_ENSEMBLE, 0]), float(climbed[_ENSEMBLE, 1:].min()), auto)
    none = (np.nan,) * 4
    return [
        _Model(f"paper: {name}", "CIFAR-10; ε = 8/255 (L∞)", (*values, np.nan), none, none)
        for name, values in numbers.items()
    ]
