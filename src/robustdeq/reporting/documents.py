"""Markdown documents made from stored results: reproductions beside the paper's numbers, and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from robustdeq.base.errors import require
from robustdeq.base.files import write_text
from robustdeq.reporting.figures import save_drawing
from robustdeq.reporting.markdown import markdown
from robustdeq.reporting.runs import MARKS, ReportedRun
from robustdeq.reporting.tabulation import claims_table, findings_table, panel_table
from robustdeq.study import EXPERIMENTS, Reproduction
from robustdeq.study.bench import BENCHES, BenchResult


def save_document(runs: Sequence[ReportedRun], path: Path) -> None:
    """Write all reproductions of some runs as one Markdown file, with their figures in a folder beside it.

    Args:
        runs: the runs; raises `InputError` where they hold no reproduction.
        path: the file; figures go to a folder of its name without the suffix.
    """
    write_text(path, f"# Reproduction\n\n{MARKS[1]}\n\n{reproduction_sections(runs, path.with_suffix(''))}")


def reproduction_sections(runs: Sequence[ReportedRun], figures: Path) -> str:
    """All reproductions of some runs in Markdown, a section each, and their figures.

    Args:
        runs: the runs; raises `InputError` where they hold no reproduction.
        figures: the folder for the figures; the sections refer to it by its name.
    """
    found = [(run, reproduction) for run in runs for reproduction in run.reproductions]
    require(found, "the folders hold no reproductions; make some with `robustdeq reproduce`.")
    order = list(EXPERIMENTS)
    found.sort(key=lambda pair: order.index(pair[1].name) if pair[1].name in order else len(order))
    sections = []
    for run, reproduction in found:
        name = reproduction.name if len(runs) == 1 else f"{run.name}-{reproduction.name}"
        save_drawing(reproduction, figures / f"{name}.svg")
        figure = f"![{reproduction.source}: {reproduction.title}]({figures.name}/{name}.svg)"
        section = _section(
            f"{reproduction.source[:1].upper()}{reproduction.source[1:]}: {reproduction.title}",
            _measured_on(reproduction),
            f"What the paper says: {reproduction.remark}" if reproduction.remark else "",
            reproduction.legend,
            run.notes.get(reproduction.name, ""),
            markdown(findings_table(reproduction.findings)) if reproduction.findings else "",
            *(markdown(panel_table(panel)) for panel in reproduction.panels),
            figure,
            _provenance(reproduction),
        )
        sections.append(section)
    return "\n".join(sections)


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *filter(None, map(str.strip, parts))]) + "\n"


def _measured_on(reproduction: Reproduction) -> str:
    """The models and images behind our numbers, in a line."""
    known = reproduction.provenance
    weights = ", ".join(f"`{path}`" for path in known.get("weights", {}).values())
    models = f"given weights {weights}" if weights else f"models trained on {known.get('trained_on')}"
    return f"*Ours: scale {known.get('scale')}, {models}; images: {known.get('data')}.*"


def _provenance(reproduction: Reproduction) -> str:
    """Where the numbers come from, folded away."""
    known = {key: value for key, value in reproduction.provenance.items() if value not in (None, "", {}, [])}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    rows = [f"| {key} | `{text.replace('|', '¦')}` |" for key, text in texts.items()]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"<details markdown><summary>Where this comes from</summary>\n\n{table}\n\n</details>"


def save_performance(folder: Path, path: Path) -> None:
    """Write all benchmarks of a folder as one Markdown file; what it holds is that of `performance_sections`."""
    write_text(path, f"# Performance\n\n<!-- made by robustdeq bench -->\n\n{performance_sections(folder)}")


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
        result.title + file.stem.removeprefix(result.name).replace("-", ": ", 1),
        markdown(claims_table(claims)) if claims else "",
        *(markdown(panel_table(panel)) for panel in result.measured.panels),
        f"`{result.provenance['command']}` ({source})",
    )
