"""`robustdeq bench`: speed and memory, as ratios."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from robustdeq.base.errors import look_up
from robustdeq.base.progress import progress_bar
from robustdeq.cli.console import console, say
from robustdeq.cli.device import device_named
from robustdeq.cli.outputs import refuse_file
from robustdeq.reporting import claims_table, panel_table, refuse_foreign, save_performance, terminal
from robustdeq.study.bench import BENCHES, Setting, bench_named, run
from robustdeq.zoo import PRESETS


def bench(
    name: str = "all",
    *,
    size: str = "large",
    batch: int = 16,
    repetitions: int = 5,
    device: str = "auto",
    output: Path = Path("runs/bench"),
    document: Path | None = None,
) -> None:
    """Measure speed and memory as ratios, every side in one run, and say which bounds they keep.

    Args:
        name: of the benchmark: solve, peers, profile, gradients, grid, strict, freezing, growth, throughput, training,
            accuracy; or all.
        size: of the MDEQ, with random weights.
        batch: how many images at once.
        repetitions: how often every side is timed.
        device: cpu, cuda or auto.
        output: the folder for the results, one JSON file per benchmark; trainings that were interrupted go on there.
        document: write all results of that folder as one Markdown file, NAME-MORE.json beside NAME.json included, and
            measure nothing.
    """
    if document is not None:
        refuse_foreign(document)
        save_performance(output, document)
        say(f"wrote {document}")
        return
    benches = [*BENCHES.values()] if name == "all" else [bench_named(name)]
    look_up("MDEQ of size", size, PRESETS)
    setting = Setting(size, batch, repetitions, device_named(device), folder=output / "trained")
    refuse_file(output)
    failed = 0
    for chosen in benches:
        with progress_bar(chosen.title) as report:
            result = run(chosen, replace(setting, report=report))
        result.save(output / f"{chosen.name}.json")
        for panel in result.measured.panels:
            console.print(terminal(panel_table(panel)))
        if result.measured.claims:
            console.print(terminal(claims_table(result.measured.claims)))
        failed += sum(not claim.holds for claim in result.measured.claims)
    say(f"The results are in {output}.")
    if failed:
        console.print(f"{failed} of the bounds {'is' if failed == 1 else 'are'} not kept.", style="red")
        sys.exit(1)
