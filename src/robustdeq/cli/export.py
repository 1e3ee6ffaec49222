"""`robustdeq export`: the results of an evaluation, in the format of another tool."""

from __future__ import annotations

from pathlib import Path

from robustdeq.cli.console import say
from robustdeq.cli.outputs import refuse_to_overwrite
from robustdeq.evaluation.hardest import SUFFIXES, save_hardest
from robustdeq.reporting import export as write
from robustdeq.reporting import read_evaluation


def export(results: Path, *, to: Path | None = None, overwrite: bool = False) -> None:
    """Write the results of an evaluation in the format of another tool.

    Args:
        results: the folder of an evaluation, finished.
        to: the file; its suffix is the format: .csv and .md (the table), .parquet (every sample), .tex (LaTeX),
            .robustbench.json (entries of the leaderboard), or, where adversaries were kept, one for every test image:
            .pt (as RobustBench asks for them) or .safetensors (with labels). By default results.md in the folder.
        overwrite: replace the file.
    """
    if to is not None:
        refuse_to_overwrite([to], overwrite, "choose another --to, or pass --overwrite")
    if to is not None and to.suffix in SUFFIXES:
        save_hardest(results, to)
        say(f"wrote {to}")
        return
    for path in write(read_evaluation(results), results / "results.md" if to is None else to):
        say(f"wrote {path}")
