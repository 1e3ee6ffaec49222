"""The page itself: every run, what they come to side by side, and their reproductions, in one HTML file."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.reporting.page.charts import Chart, templates
from robustdeq.reporting.page.comparison import comparison_chart
from robustdeq.reporting.page.grid_charts import (
    Headline,
    Verdict,
    grid_chart,
    headline,
    profile_charts,
    unchecked,
    verdict,
)
from robustdeq.reporting.page.panel_chart import alignment_chart, panel_chart
from robustdeq.reporting.page.pictures import Exhibit, agreement_chart, largest_change, shown
from robustdeq.reporting.runs import ReportedRun
from robustdeq.reporting.wording import count, flat, label
from robustdeq.study import Reproduction


@dataclass(frozen=True)
class Download:
    """A file that the page carries.

    Attributes:
        name: of the file.
        address: its content, as a data URI.
    """

    name: str
    address: str


@dataclass(frozen=True)
class ReproductionSection:
    """A reproduction on the page."""

    title: str
    remark: str
    legend: str
    note: str
    charts: tuple[Chart, ...]
    provenance: Mapping[str, str]
    download: Download


@dataclass(frozen=True)
class RunSection:
    """A run on the page; what it lacks is empty."""

    slug: str
    name: str
    headline: Headline | None
    grid: Chart | None
    profiles: tuple[Chart, ...]
    gradients: tuple[Chart, ...]
    checks: tuple[Verdict, ...]
    unchecked: str
    exhibits: tuple[Exhibit, ...]
    exhibited: str
    experiments: tuple[ReproductionSection, ...]
    provenance: Mapping[str, str]
    download: Download | None


def save_page(runs: Sequence[ReportedRun], path: Path, title: str = "How robust is it?") -> None:
    """Write the report of some runs as one HTML file that needs no network, whole or not at all.

    Args:
        runs: what to report, in the order in which they can be chosen.
        path: the file.
        title: its heading.

    Raises:
        InputError: there are no runs.
    """
    if not runs:
        raise InputError("there is nothing to report; give at least one folder of results.")
    here = files("robustdeq.reporting.page")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["label"] = label
    template = environment.from_string((here / "template.html").read_text(encoding="utf-8"))
    evaluated = [(run.name, run.result) for run in runs if run.result is not None]
    page = template.render(
        title=title,
        version=version("robustdeq"),
        style=(here / "style.css").read_text(encoding="utf-8"),
        script=(here / "script.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        templates=templates(),
        runs=[_run(run, slug) for run, slug in zip(runs, _slugs(runs), strict=True)],
        comparison=comparison_chart(evaluated) if evaluated else None,
    )
    write_text(path, page)


def _run(run: ReportedRun, slug: str) -> RunSection:
    result, exhibits = run.result, run.exhibits
    gradients = (() if run.alignment is None else (alignment_chart(run.alignment),)) + (
        () if exhibits is None else (agreement_chart(exhibits),)
    )
    return RunSection(
        slug=slug,
        name=run.name,
        headline=None if result is None else headline(result),
        grid=None if result is None else grid_chart(result),
        profiles=() if result is None or not result.profiles else profile_charts(result.profiles),
        gradients=gradients,
        checks=() if result is None else tuple(map(verdict, result.checks)),
        unchecked="" if result is None or result.checks else unchecked(result),
        exhibits=() if exhibits is None else shown(exhibits),
        exhibited=""
        if exhibits is None
        else _exhibited(len(exhibits.images), largest_change(exhibits), exhibits.attack),
        experiments=tuple(_experiment(found, run.notes.get(found.name, ""), slug) for found in run.reproductions),
        provenance={} if result is None else flat(result.settings),
        download=None if result is None else _download(f"{slug}.json", result.to_dict()),
    )


def _exhibited(images: int, change: float, attack: str) -> str:
    return (
        f"{count(images, 'image')}, attacked by {attack}. Between each image and its adversary stands their "
        f"difference, amplified so that ±{change:.3g}, the largest change of any pixel here, spans black to white; "
        "grey is no change."
    )


def _experiment(found: Reproduction, note: str, slug: str) -> ReproductionSection:
    return ReproductionSection(
        title=label(f"{found.source}: {found.title}"),
        remark=label(found.remark),
        legend=label(found.legend),
        note=label(note),
        charts=tuple(map(panel_chart, found.panels)),
        provenance=flat(found.provenance),
        download=_download(f"{slug}-{found.name}.json", found.plain()),
    )


def _download(name: str, content: Mapping[str, Any]) -> Download:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    return Download(name, f"data:application/json;base64,{base64.b64encode(text.encode()).decode()}")


def _slugs(runs: Sequence[ReportedRun]) -> list[str]:
    """A name for every run that an address and a file can bear, each only once."""
    slugs: list[str] = []
    for run in runs:
        slug = start = re.sub(r"[^0-9A-Za-z_.-]+", "-", run.name).strip("-.") or "run"
        i = 1
        while slug in slugs:
            i += 1
            slug = f"{start}-{i}"
        slugs.append(slug)
    return slugs
