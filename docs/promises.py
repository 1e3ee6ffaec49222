"""What the long runs of the fault harness came to, as tables of Markdown, from the JSON that they leave."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_MIB = 2**20


def figures(folder: Path) -> str:
    """The tables of all runs that a folder holds, each with what made it and the note beside it."""
    return "\n\n".join(part for name, make in _RUNS.items() for part in _section(folder / f"{name}.json", make))


def _section(path: Path, make: Any) -> Iterator[str]:
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    title, table = make(found)
    yield from (f"## {title}", f"    {found['command']}", table)
    note = path.with_suffix(".md")
    if note.is_file():
        yield note.read_text(encoding="utf-8").strip()


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    aligned = "|".join(["---"] + ["--:"] * (len(columns) - 1))
    lines = [" | ".join(map(str, row)) for row in rows]
    return "\n".join([f"| {' | '.join(columns)} |", f"|{aligned}|", *(f"| {line} |" for line in lines)])


def _faults(found: dict[str, Any]) -> tuple[str, str]:
    counts = ("injected", "refused", "resumed", "lost", "wrong", "crashed")
    kinds: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(counts))
    for row in found["faults"]:
        kinds[row["fault"]] = [total + row[name] for total, name in zip(kinds[row["fault"]], counts, strict=True)]
    rows = [(kind, *totals) for kind, totals in kinds.items()]
    return "Faults", _table(("fault", *counts), [*rows, ("all", *(found["total"][name] for name in counts))])


def _fuzzed(found: dict[str, Any]) -> tuple[str, str]:
    rows = [
        (name, f"{t['inputs']:,}", f"{t['accepted']:,}", f"{t['refused']:,}", t["failed"])
        for name, t in found["readers"].items()
    ]
    return "Damaged files", _table(("reader", "files", "accepted", "refused", "failed"), rows)


def _loaded(found: dict[str, Any]) -> tuple[str, str]:
    beside = found["written_beside_readers"]
    parquet = found["exported"][".parquet"]
    rows = [
        ("store of 10,000 images", f"{found['store_bytes'] / 1e6:.1f} MB"),
        ("peak memory, from 1,000 to 10,000 images", f"+{found['growth_of_peak_bytes'] / 1e6:.0f} MB"),
        ("of which pixels", f"{found['growth_of_images_bytes'] / 1e6:.0f} MB"),
        ("a finished run is resumed in", f"{found['resumed']['seconds']:.2f} s"),
        (f"reads by {beside['readers']} readers of a store that is written", f"{beside['reads']:,}"),
        ("of which torn", beside["torn"]),
        (
            f"peak memory of an export of {found['exported_outcomes']:,} outcomes",
            f"+{(parquet['peak_bytes'] - parquet['peak_before_bytes']) / _MIB:.0f} MiB",
        ),
    ]
    return "Load", _table(("", ""), rows)


def _machines(found: dict[str, Any]) -> tuple[str, str]:
    about = ("machine", "python", "torch", "numpy")
    rows = [
        (*(run[name] for name in about), f"{run['tests']:,}", run["skipped"], len(run["failed"]))
        for run in found["runs"]
    ]
    return "Other machines", _table(("instructions and threads", *about[1:], "tests", "skipped", "failed"), rows)


_RUNS = {"machines": _machines, "faults": _faults, "fuzz": _fuzzed, "load": _loaded}
