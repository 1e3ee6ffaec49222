"""`robustdeq export`: the results of an evaluation, in the format of another tool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustdeq.cli.console import console
from robustdeq.evaluation import Store, assemble
from robustdeq.evaluation.store import FILE
from robustdeq.reporting import export as write


def export(results: Path, to: Path | None = None) -> None:
    """Write the results of an evaluation in the format of another tool.

    Args:
        results: the folder of an evaluation, finished.
        to: the file; its suffix is the format: .csv and .md (the table), .parquet (every sample), .tex (LaTeX) or
            .robustbench.json (entries of the leaderboard). By default results.md in the folder.
    """
    with Store.read(results / FILE) as store:
        result = assemble(store)
    result = replace(result, settings=result.settings | _provenance_of(results))
    for path in write(result, results / "results.md" if to is None else to):
        console.print(f"wrote {path}")


def _provenance_of(folder: Path) -> dict[str, Any]:
    """What the results say about where they come from, beyond what the store holds."""
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError):
        return {}
