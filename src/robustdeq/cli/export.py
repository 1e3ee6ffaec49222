"""`robustdeq export`: the results of an evaluation, in the format of another tool."""

from __future__ import annotations

from pathlib import Path

from robustdeq.cli.console import console
from robustdeq.evaluation.hardest import SUFFIXES, save_hardest
from robustdeq.reporting import export as write
from robustdeq.reporting import read_evaluation


def export(results: Path, *, to: Path | None = None) -> None:
    """Write the results of an evaluation in the format of another tool.

    Args:
        results: the folder of an evaluation, finished.
        to: the file; its suffix is the format: .csv and .md (the table), .parquet (every sample), .tex (LaTeX),
            .robustbench.json (entries of the leaderboard), or, where adversaries were kept, one for every test image:
            .pt (as RobustBench asks for them) or .safetensors (with labels). By default results.md in the folder.
    """
    if to is not None and to.suffix in SUFFIXES:
        save_hardest(results, to)
        console.print(f"wrote {to}")
        return
    for path in write(read_evaluation(results), results / "results.md" if to is None else to):
        console.print(f"wrote {path}")
