"""The tests that compute, run as other machines would: other instructions of the processor, another number of threads.

python tests/faults/machines.py             # all of them, one after another
python tests/faults/machines.py --today     # the core alone, on the one whose turn it is
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).parents[2]
CORE = ("solvers", "deq", "attacks", "certificates")
ROOMS = (*CORE, "base", "zoo", "evaluation", "training", "leaderboard")
MACHINES = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
    "AVX2, two threads": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"},
    "as it comes, two threads": {"OMP_NUM_THREADS": "2"},
}


def tested(machine: dict[str, str], rooms: tuple[str, ...]) -> dict[str, Any]:
    """Run the quick tests of some rooms on such a machine; how many there were, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        processes = max(1, (os.cpu_count() or 1) // int(machine["OMP_NUM_THREADS"]))
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "--numprocesses", str(processes), "--dist"]
        command += ["loadgroup", f"--junitxml={report}", *(f"tests/{room}" for room in rooms)]
        subprocess.run(command, cwd=ROOT, env=os.environ | machine, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        outcomes = {f"{case.get('classname')}::{case.get('name')}": {part.tag for part in case} for case in cases}
    failed = sorted(name for name, parts in outcomes.items() if parts & {"failure", "error"})
    return {"tests": len(outcomes), "skipped": sum("skipped" in parts for parts in outcomes.values()), "failed": failed}


def main() -> None:
    """Run the tests and say what came of them; the status is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--today", action="store_true", help="the core alone, on the one machine whose turn it is")
    parser.add_argument("--output", type=Path)
    chosen, names, rooms = parser.parse_args(), [*MACHINES], ROOMS
    if chosen.today:
        names, rooms = [names[datetime.date.today().toordinal() % len(names)]], CORE
    about = {"command": "python tests/faults/machines.py", "processor": torch.backends.cpu.get_cpu_capability()}
    found: dict[str, Any] = {}
    for name in names:
        found[name] = outcome = {"settings": MACHINES[name], **tested(MACHINES[name], rooms)}
        print(f"{name}: {outcome['tests']} tests, {len(outcome['failed'])} failed", *outcome["failed"], sep="\n  ")
        if chosen.output is not None:
            made = about | {"python": platform.python_version(), "torch": torch.__version__, "machines": found}
            chosen.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(outcome["failed"] for outcome in found.values()))


if __name__ == "__main__":
    main()
