"""Run every benchmark, print the ratios with their bounds, and write them to runs/bench.json."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.solve import broyden_against_torchdeq, solve_against_bare_cell
from robustdeq.files import write_text


def main() -> int:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    claims = [solve_against_bare_cell(), *broyden_against_torchdeq()]
    table = Table("subject", "ratio", "bound", "measured", "", title="both sides of each ratio measured in this run")
    for claim in claims:
        bound = f"{'≥' if claim.at_least else '≤'} {claim.bound:g}"
        table.add_row(claim.subject, f"{claim.ratio:.2f}", bound, claim.detail, "holds" if claim.holds else "FAILS")
    Console().print(table)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.processor()}
    record = {"claims": [asdict(claim) | {"holds": claim.holds} for claim in claims], "on": machine}
    write_text(Path("runs/bench.json"), json.dumps(record, indent=1) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
