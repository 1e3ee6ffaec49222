"""All runs side by side, and the paper's rows with them (Table 4, and the ensemble rows of Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robustdeq.base.statistics import wilson_intervals
from robustdeq.evaluation import GridResult
from robustdeq.reporting.page.charts import Chart, dots
from robustdeq.reporting.tabulation import Cell, panel_table
from robustdeq.reporting.wording import label, number, threat
from robustdeq.study import Panel, published

_ENSEMBLE = 2
_MEASURES = ("clean", "PGD", "AutoAttack", "worst case per image")
_NONE = (np.nan, np.nan, np.nan)
_Model = tuple[str, str, Sequence[tuple[float, ...]]]
"""A model: its name, its images and bound, and for each measure the share and the ends of its interval, or nan."""


def comparison_chart(results: Sequence[tuple[str, GridResult]]) -> Chart:
    """Clean accuracy, the weakest column of each attack, and the worst case, ours first, then the paper's.

    Args:
        results: the name of every run, and its table.
    """
    ours, papers = [_ours(name, result) for name, result in results], _papers()
    names, places, found = zip(*ours, *papers, strict=True)
    values, low, high = np.moveaxis(100 * np.array(found, float), -1, 0)
    interval = "Wilson 95 % interval"
    panel = Panel("All runs, and the paper's", "%", names, _MEASURES, values, "model", "", low, high, interval=interval)
    table = panel_table(panel)
    rows = (replace(row, cells=(Cell(place), *row.cells)) for row, place in zip(table.rows, places, strict=True))
    kept = "; ".join(f"{name}: {number(100 * worst)} %" for name, _, (*_, (worst, *_)) in ours)
    return Chart(
        panel.title,
        dots(panel, (len(ours),)),
        f"Worst case per image, on the images and within the bound of each run; {kept}.",
        replace(
            table,
            columns=("images and bound", *_MEASURES),
            groups=(tuple(rows),),
            notes=(*table.notes, "a dash where there is no number"),
        ),
        note="PGD and AutoAttack: the weakest of the paper's columns. The paper's models are full-sized, trained and "
        "tested on all of CIFAR-10, within 8/255 in L∞; it used PGD-10 and AutoAttack only, so it has no worst case "
        "over all attacks, and numbers on other images or bounds do not compare with it.",
    )


def _ours(name: str, result: GridResult) -> _Model:
    i, paper = 0, _NONE
    columns = [j for j, beyond in enumerate(result.beyond_paper) if not beyond]
    if columns:
        weakest = min(columns, key=lambda j: result.accuracy[i, j])
        paper = (result.accuracy[i, weakest], *result.intervals[i, weakest])
    measures = (
        (result.clean[i].mean(), *wilson_intervals(result.clean)[i]),
        *((_NONE, paper) if result.settings.get("protocol") == "autoattack" else (paper, _NONE)),
        (result.worst_case[i], *result.worst_case_intervals[i]),
    )
    defense = f", {label(result.defenses[i])}" if len(result.defenses) > 1 else ""
    data = str(result.settings.get("data", ""))
    where = "; ".join(filter(None, (f"{result.clean.shape[1]:,} images", data, threat(result.settings))))
    return f"{name}{defense}", where, measures


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
        auto = np.nan if automatic is None else automatic[_ENSEMBLE, 1:].min()
        numbers[name] = (climbed[_ENSEMBLE, 0], climbed[_ENSEMBLE, 1:].min(), auto)
    return [
        (f"paper: {name}", "CIFAR-10; ε = 8/255 (L∞)", [(value / 100, np.nan, np.nan) for value in (*values, np.nan)])
        for name, values in numbers.items()
    ]
