"""Reproductions as a Markdown document: our tables and figures, and the paper's numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.reporting.drawings import save_drawing
from robustdeq.reporting.panels import panel_markdown
from robustdeq.reporting.runs import MARKS, ReportedRun
from robustdeq.study import EXPERIMENTS, Reproduction

_INTRODUCTION = f"""# Reproduction

{MARKS[1]}

Every table and figure of the paper is one command, and so is what it could not show:

    robustdeq reproduce --list                             # what there is, and which models each needs
    robustdeq reproduce table2 --scale nano                # on digits, in minutes
    robustdeq reproduce table2 --scale large --data DATA   # at the paper's size
    robustdeq reproduce fig4 --weights WEIGHTS --data DATA -n 100    # with a model of one's own
    robustdeq report FOLDER -o reproduction.md             # this document, from the stored results

Models that are compared and missing are trained by the published recipe, cut to the scale; what was measured is kept,
and an interrupted command goes on. `--budget`, `--estimators`, `--effort` and `--strict` say how much is done, and
`--format pdf` (or svg) how the figures are written; LaTeX lies beside them.

Our numbers are followed by their 95 % interval in parentheses and, after a stroke and in italics, by the paper's in the
same place. The paper's models are MDEQ-Large (and XL), trained on CIFAR-10 for 220 epochs; each section says which
models, images and settings ours come from.
"""


def save_document(runs: Sequence[ReportedRun], path: Path) -> None:
    """Write all reproductions of some runs as one Markdown file, with their figures in a folder beside it.

    Args:
        runs: the runs.
        path: the file; figures go to a folder of its name without the suffix.

    Raises:
        InputError: the runs hold no reproduction.
    """
    found = [(run, reproduction) for run in runs for reproduction in run.reproductions]
    if not found:
        raise InputError("the folders hold no reproductions; make some with `robustdeq reproduce`.")
    order = list(EXPERIMENTS)
    found.sort(key=lambda pair: order.index(pair[1].name) if pair[1].name in order else len(order))
    figures = path.with_suffix("")
    sections = []
    for run, reproduction in found:
        name = reproduction.name if len(runs) == 1 else f"{run.name}-{reproduction.name}"
        save_drawing(reproduction, figures / f"{name}.svg")
        figure = f"![{reproduction.source}: {reproduction.title}]({figures.name}/{name}.svg)"
        sections.append(_section(reproduction, run.notes.get(reproduction.name, ""), figure))
    write_text(path, "\n".join([_INTRODUCTION, *sections]))


def _section(reproduction: Reproduction, note: str, figure: str) -> str:
    said = f"What the paper says: {reproduction.remark}" if reproduction.remark else ""
    tables = [panel_markdown(panel) for panel in reproduction.panels]
    source = reproduction.source[:1].upper() + reproduction.source[1:]
    parts = [
        f"## {source}: {reproduction.title}",
        _measured_on(reproduction),
        said,
        reproduction.legend,
        note.strip(),
        *tables,
        figure,
        _source(reproduction),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _measured_on(reproduction: Reproduction) -> str:
    """Whose numbers ours are, in a line."""
    known = reproduction.provenance
    weights = ", ".join(f"`{path}`" for path in known.get("weights", {}).values())
    models = f"given weights {weights}" if weights else f"models trained on {known.get('trained_on')}"
    return f"*Ours: scale {known.get('scale')}, {models}; images: {known.get('data')}.*"


def _source(reproduction: Reproduction) -> str:
    """Where the numbers come from, folded away."""
    known = {key: value for key, value in reproduction.provenance.items() if value not in (None, "", {}, [])}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    rows = [f"| {key} | `{text.replace('|', '¦')}` |" for key, text in texts.items()]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"<details markdown><summary>Where this comes from</summary>\n\n{table}\n\n</details>"
