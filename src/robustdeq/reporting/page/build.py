"""The page itself: every run, what they come to side by side, and their reproductions, in one HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustdeq.base.errors import require
from robustdeq.base.files import write_text
from robustdeq.evaluation import CheckVerdict
from robustdeq.evaluation.exhibits import Exhibits
from robustdeq.reporting.page.comparison import comparison_charts
from robustdeq.reporting.page.grid_charts import check_table, grid_chart, headline, profile_charts, unchecked
from robustdeq.reporting.page.panel_chart import alignment_chart, panel_chart
from robustdeq.reporting.page.pictures import agreement_chart, largest_change, shown
from robustdeq.reporting.page.rendering import rendered
from robustdeq.reporting.runs import ReportedRun
from robustdeq.reporting.settings import attacked, provenance, subject
from robustdeq.reporting.tabulation import findings_table
from robustdeq.reporting.wording import count, label, slugs
from robustdeq.study import Reproduction


def save_page(runs: Sequence[ReportedRun], path: str | Path, title: str = "How robust is it?") -> None:
    """Write the report of some runs as one HTML file that needs no network, whole or not at all.

    Args:
        runs: what to report, in the order in which they can be chosen.
        path: the file.
        title: its heading.

    Raises:
        InputError: there are no runs.
    """
    path = Path(path)
    require(runs, "there is nothing to report; give at least one folder of results.")
    evaluated = [(run.name, run.result) for run in runs if run.result is not None]
    page = rendered(
        "template.html",
        "script.js",
        title=title,
        runs=[_run(run, slug) for run, slug in zip(runs, slugs(run.name for run in runs), strict=True)],
        comparisons=comparison_charts(evaluated),
    )
    write_text(path, page)


def _run(run: ReportedRun, slug: str) -> dict[str, Any]:
    """What the template shows of a run; what the run lacks is empty."""
    result, exhibits = run.result, run.exhibits
    experiments = [_experiment(found, run.notes.get(found.name, ""), slug) for found in run.reproductions]
    section: dict[str, Any] = {"slug": slug, "name": run.name, "experiments": experiments}
    section |= dict.fromkeys(("subject", "headline", "grid", "profiles", "checks", "unchecked", "exhibits"))
    section["gradients"] = [] if run.alignment is None else [alignment_chart(run.alignment)]
    if result is not None:
        section |= {
            "subject": subject(result.settings),
            "headline": headline(result),
            "grid": grid_chart(result),
            "profiles": profile_charts(result.profiles) if result.profiles else (),
            "checks": [(check, check_table(check)) for check in result.checks],
            "passed": [check.verdict is CheckVerdict.PASSED for check in result.checks],
            "unchecked": "" if result.checks else unchecked(result),
            "provenance": provenance(result.settings),
            "download": _download(f"{slug}.json", result.to_dict()),
        }
    if exhibits is not None:
        section["gradients"].append(agreement_chart(exhibits))
        section |= {"exhibits": shown(exhibits), "exhibited": _exhibited(exhibits)}
    return section


def _exhibited(exhibits: Exhibits) -> str:
    return (
        f"{count(len(exhibits.images), 'image')}, attacked through the solver against the final state: "
        f"{attacked({'attack': exhibits.attack})}. Between each image and its adversary "
        f"stands their difference, amplified so that ±{largest_change(exhibits):.3g}, the largest change of any pixel "
        "here, spans black to white; grey is no change."
    )


def _experiment(found: Reproduction, note: str, slug: str) -> dict[str, Any]:
    """What the template shows of a reproduction."""
    return {
        "title": label(f"{found.source}: {found.title}"),
        "subject": subject(found.provenance),
        "remark": label(found.remark),
        "legend": label(found.legend),
        "note": label(note),
        "findings": findings_table(found.findings) if found.findings else None,
        "charts": [*map(panel_chart, found.panels)],
        "provenance": provenance(found.provenance),
        "download": _download(f"{slug}-{found.name}.json", found.plain()),
    }


def _download(name: str, numbers: Mapping[str, Any]) -> dict[str, str]:
    """A file that the page carries: its name, and its content as a data URI."""
    text = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"))
    content = base64.b64encode(text.encode(errors="backslashreplace")).decode()
    return {"name": name, "address": f"data:application/json;base64,{content}"}
