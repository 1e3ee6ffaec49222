"""Benchmarks for the terminal, and as a Markdown document made from stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from robustdeq.base.errors import InputError
from robustdeq.base.files import write_text
from robustdeq.reporting.panels import panel_markdown
from robustdeq.study.bench import BENCHES, BenchResult, Claim

_INTRODUCTION = """# Performance

<!-- made by robustdeq bench -->

    robustdeq bench                      # everything, which takes long
    robustdeq bench gradients --size large --batch 16 --repetitions 5
    robustdeq bench --output FOLDER --document performance.md      # this document, from the stored results

All sides of a comparison are timed in turn, round after round in one run, on the same random images and weights (seed
0); a ratio is the median over the rounds, and what stands in parentheses is the least and the greatest of a round.

## The model of cost

An evaluation of f is the unit; a product with its Jacobian costs another, and recording f for it nothing. With N solver
steps, a tail of k steps and a phantom gradient of p steps, one input gradient takes

| gradient | evaluations of f | products | live memory |
|---|--:|--:|---|
| phantom, unrolled intermediate at z_n | n + p (n ≤ N), N + 1 + p | p | p graphs of f, N increments |
| exact, b backward steps | N + 2 | b + 2 | one graph, N + b increments |
| Jacobian-free, SHINE | N + 2 | 1 | one graph, N increments |
| simultaneous adjoint, all N + 1 states and their sum | N + k + 2 | N + 1 | N graphs and increments |
| through the solver | N + 1 + k | N + 1 + k | N + 1 + k graphs, 2 N increments |
| through the solver, f checkpointed | 2 (N + 1 + k) | N + 1 + k | one graph, 2 N increments |

A solve keeps its N increments, D numbers each, and nothing else that grows; each of its steps reads them twice. An
attack of S steps costs S gradients per image and one judgement, N + 1 + k evaluations, for all defenses together.

## At scale

    robustdeq evaluate WEIGHTS --data DATA --batch_size 512                       # one GPU: as many images as fit
    robustdeq evaluate WEIGHTS --data DATA --devices 8                            # one machine
    torchrun --nnodes 4 --nproc-per-node 8 … --no-python robustdeq evaluate … --devices 8 --nodes 4
    robustdeq train RECIPE --data DATA --devices 8 --execution.precision bfloat16 --objective.warm_steps 3

- Batches of an evaluation do not depend on each other: each process takes its share, nothing is exchanged before the
  end, and the result is the same on any number of devices. Give each process at least one batch.
- The memory of an attack is the live memory of its gradient, from the table above, times the batch. Where the gradient
  through the solver does not fit, `ThroughSolver(checkpoint=True)` keeps the states alone.
- A training exchanges the gradients of the weights once per step, and the statistics of BatchNorm; the adversaries of a
  step are made on each device alone, which is where nearly all the time goes.
- With a tolerance of 0 (`--solver_steps.asynchronous true` in a training) a solve never makes the host wait for the
  device.
"""


def claims_table(claims: Sequence[Claim]) -> Table:
    """Ratios beside the bounds they are to keep, for the terminal."""
    table = Table("ratio", "measured", "bound", "", box=box.SIMPLE_HEAD)
    for claim in claims:
        table.add_row(claim.subject, _ratio(claim), _bound(claim), "holds" if claim.holds else "[red]FAILS[/red]")
    return table


def _ratio(claim: Claim) -> str:
    spread = "" if claim.low == claim.high else f" ({claim.low:.2f}–{claim.high:.2f})"
    return f"{claim.ratio:.2f}{spread}"


def _bound(claim: Claim) -> str:
    return f"{'≥' if claim.at_least else '≤'} {claim.bound:g}"


def save_performance(folder: Path, path: Path) -> None:
    """Write all benchmarks of a folder as one Markdown file.

    Args:
        folder: where `robustdeq bench` kept them; NAME-ANYTHING.json is a further result of the benchmark NAME.
        path: the file.

    Raises:
        InputError: the folder holds no benchmark.
    """
    patterns = [pattern for name in BENCHES for pattern in (f"{name}.json", f"{name}-*.json")]
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    if not files:
        raise InputError(f"{folder} holds no benchmarks; make some with `robustdeq bench`.")
    write_text(path, "\n".join([_INTRODUCTION, *map(_section, files)]))


def _section(file: Path) -> str:
    result = BenchResult.read(file)
    claims = result.measured.claims
    rows = [f"| {c.subject} | {_ratio(c)} | {_bound(c)} | {'yes' if c.holds else '**no**'} |" for c in claims]
    table = "\n".join(["| ratio | measured | bound | holds |", "|---|--:|--:|---|", *rows]) if rows else ""
    source = ", ".join(f"{key} {value}" for key, value in result.provenance.items() if key not in ("command", "code"))
    command = f"`{result.provenance['command']}` ({source})"
    further = file.stem.removeprefix(result.name).replace("-", ": ", 1)
    parts = [f"## {result.title}{further}", table, *map(panel_markdown, result.measured.panels), command]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
