"""Markdown documents made from stored results: reproductions beside the paper's numbers, and benchmarks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from robustdeq.base.errors import require
from robustdeq.base.files import write_text
from robustdeq.reporting.figures import save_drawing
from robustdeq.reporting.markdown import code, escaped, markdown
from robustdeq.reporting.runs import MARKS, ReportedRun
from robustdeq.reporting.tabulation import Table, claims_table, findings_table, panel_table
from robustdeq.reporting.wording import slugs
from robustdeq.study import EXPERIMENTS, Finding, Reproduction
from robustdeq.study.bench import BENCHES, BenchResult


def save_document(runs: Sequence[ReportedRun], path: Path) -> None:
    """Write all reproductions of some runs as one Markdown file, with their figures in a folder beside it.

    Args:
        runs: the runs; raises `InputError` where they hold no reproduction.
        path: the file; figures go to a folder of its name without the suffix.
    """
    sections = "\n".join(reproduction_pages(runs, path.with_suffix(""), level=2).values())
    write_text(path, f"# Reproduction\n\n{MARKS['report']}\n\n{sections}")


def reproduction_pages(runs: Sequence[ReportedRun], figures: Path, level: int = 1) -> dict[str, str]:
    """All reproductions of some runs in Markdown, by experiment and in the order of the paper, and their figures.

    Args:
        runs: the runs; raises `InputError` where they hold no reproduction.
        figures: the folder for the figures; the texts refer to it by its name.
        level: of the headings that name the experiments.
    """
    names, pages = {id(run): run.name for run in runs}, {}
    slug_of = dict(zip(names, slugs(names.values()), strict=True))
    for name, results in _by_experiment(runs).items():
        parts = [_about(results[0][1])]
        for run, reproduction in results:
            figure = name if len(runs) == 1 else f"{slug_of[id(run)]}-{name}"
            save_drawing(reproduction, figures / f"{figure}.svg")
            parts += [_scale(reproduction, level + 1)] * (len(results) > 1)
            parts.append(_found(run, reproduction, quote(f"{figures.name}/{figure}.svg")))
        pages[name] = _section(level, _titled(results[0][1]), *parts)
    return pages


def reproduction_index(runs: Sequence[ReportedRun]) -> str:
    """The claims of the paper with their verdicts; then its tables and figures, with what became of their claims.

    Args:
        runs: the runs; raises `InputError` where they hold no reproduction.
    """
    found = _by_experiment(runs)
    claims = [reproduction.findings for results in found.values() for _, reproduction in results]
    findings = [finding for some in claims for finding in some]
    rows = []
    for name, results in found.items():
        shown = [finding for finding in findings if name in finding.shown]
        said = "; ".join(
            f"{scale}: {_counted(finding for finding in shown if finding.scale == scale)}"
            for scale in dict.fromkeys(finding.scale for finding in shown)
        )
        measured = (
            f"{known.get('scale')} ({known.get('images')} images)"
            for known in (reproduction.provenance for _, reproduction in results)
        )
        rows.append((f"[{_titled(results[0][1])}]({name}.md)", ", ".join(dict.fromkeys(measured)), said))
    overview = markdown(replace(Table.of("table or figure", ("scales", "its claims"), rows), words=True))
    verdicts = [markdown(findings_table(some)) for some in claims if some]
    return "\n\n".join([*["## Claims"] * bool(verdicts), *verdicts, "## Tables and figures", overview])


def _counted(findings: Iterable[Finding]) -> str:
    verdicts = Counter(str(finding.verdict) for finding in findings)
    return ", ".join(f"{number} × {verdict}" for verdict, number in verdicts.items())


def _by_experiment(runs: Sequence[ReportedRun]) -> dict[str, list[tuple[ReportedRun, Reproduction]]]:
    found: dict[str, list[tuple[ReportedRun, Reproduction]]] = {name: [] for name in EXPERIMENTS}
    for run in runs:
        for reproduction in run.reproductions:
            found.setdefault(reproduction.name, []).append((run, reproduction))
    require(any(found.values()), "the folders hold no reproductions; make some with `robustdeq reproduce`.")
    return {name: results for name, results in found.items() if results}


def _section(level: int, title: str, *parts: str) -> str:
    return "\n\n".join([f"{'#' * level} {title}", *filter(None, map(str.strip, parts))]) + "\n"


def _titled(reproduction: Reproduction) -> str:
    return escaped(f"{reproduction.source[:1].upper()}{reproduction.source[1:]}: {reproduction.title}")


def _about(reproduction: Reproduction) -> str:
    """What the paper says of it, and how our numbers are to be read."""
    said = f"What the paper says: {reproduction.remark}" if reproduction.remark else ""
    return "\n\n".join(filter(None, (said, reproduction.legend)))


def _scale(reproduction: Reproduction, level: int) -> str:
    return f"{'#' * level} Scale {escaped(str(reproduction.provenance.get('scale')))}"


def _found(run: ReportedRun, reproduction: Reproduction, figure: str) -> str:
    """The numbers, the picture, and where they come from."""
    parts = (
        _measured_on(reproduction),
        run.notes.get(reproduction.name, ""),
        markdown(findings_table(reproduction.findings)) if reproduction.findings else "",
        *(markdown(panel_table(panel)) for panel in reproduction.panels),
        f"![{escaped(reproduction.source)}: {escaped(reproduction.title)}]({figure})",
        _provenance(reproduction),
    )
    return "\n\n".join(filter(None, map(str.strip, parts)))


def _measured_on(reproduction: Reproduction) -> str:
    """The models and images behind our numbers, in a line."""
    known = reproduction.provenance
    given = known.get("weights") or {}
    weights = ", ".join(code(str(path)) for path in (given.values() if isinstance(given, dict) else [given]))
    scale, trained, data = (escaped(str(known.get(name))) for name in ("scale", "trained_on", "data"))
    models = f"given weights {weights}" if weights else f"models trained on {trained}"
    return f"*Ours: scale {scale}, {models}; images: {data}.*"


def _provenance(reproduction: Reproduction) -> str:
    """Where the numbers come from, folded away."""
    known = {key: value for key, value in reproduction.provenance.items() if value not in (None, "", {}, [])}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    rows = [f"| {escaped(key)} | {code(text)} |" for key, text in texts.items()]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"<details markdown><summary>Where this comes from</summary>\n\n{table}\n\n</details>"


def save_performance(folder: Path, path: Path) -> None:
    """Write all benchmarks of a folder as one Markdown file; what it holds is that of `performance_sections`."""
    write_text(path, f"# Performance\n\n{MARKS['bench']}\n\n{performance_sections(folder)}")


def performance_sections(folder: Path) -> str:
    """All benchmarks of a folder in Markdown, a section each.

    Args:
        folder: where `robustdeq bench` kept them; NAME-ANYTHING.json is a further result of the benchmark NAME.

    Raises:
        InputError: the folder holds no benchmark.
    """
    patterns = [pattern for name in BENCHES for pattern in (f"{name}.json", f"{name}-*.json")]
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    require(files, f"{folder} holds no benchmarks; make some with `robustdeq bench`.")
    return "\n".join(map(_benchmark, files))


def _benchmark(file: Path) -> str:
    result = BenchResult.read(file)
    claims = result.measured.claims
    source = ", ".join(f"{key} {value}" for key, value in result.provenance.items() if key not in ("command", "code"))
    return _section(
        2,
        result.title + file.stem.removeprefix(result.name).replace("-", ": ", 1),
        markdown(claims_table(claims)) if claims else "",
        *(markdown(panel_table(panel)) for panel in result.measured.panels),
        f"`{result.provenance['command']}` ({source})",
    )
