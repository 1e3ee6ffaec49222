"""The tests that compute, run as other machines would: other instructions of the processor, another number of threads.

    python tests/faults/machines.py             # all of them, one after another
    python tests/faults/machines.py --today     # only says what makes this machine the one whose turn it is

Another Python, with whatever torch and numpy it has, runs them likewise; its figures stand beside the others.
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

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
ROOMS = ("solvers", "deq", "attacks", "certificates", "base", "zoo", "evaluation", "training", "leaderboard")
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}  # a thread that waits leaves the core to others
MACHINES = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
    "AVX2, two threads": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"} | TWO_THREADS,
    "as it comes, two threads": TWO_THREADS,
}
SOFTWARE = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def tested(machine: dict[str, str]) -> dict[str, Any]:
    """Run the quick tests of the rooms on such a machine; how many there were, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "--numprocesses", "auto", "--maxprocesses", "4"]
        command += ["--dist", "loadgroup", f"--junitxml={report}", *(f"tests/{room}" for room in ROOMS)]
        subprocess.run(command, cwd=ROOT, env=os.environ | machine, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        outcomes = {f"{case.get('classname')}::{case.get('name')}": {part.tag for part in case} for case in cases}
    failed = sorted(name for name, parts in outcomes.items() if parts & {"failure", "error"})
    return {"tests": len(outcomes), "skipped": sum("skipped" in parts for parts in outcomes.values()), "failed": failed}


def main() -> None:
    """Run the tests and say what came of them; the status is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--today", action="store_true", help="print the environment of the one whose turn it is")
    parser.add_argument("--only", nargs="*", default=[*MACHINES], choices=[*MACHINES], help="names of machines")
    parser.add_argument("--output", type=Path, help="figures of other machines and other software in it are kept")
    chosen = parser.parse_args()
    if chosen.today:
        turn = [*MACHINES.values()][datetime.date.today().toordinal() % len(MACHINES)]
        print(*(f"{name}={value}" for name, value in turn.items()))
        return
    failed = False
    for name in chosen.only:
        about = {"machine": name, **SOFTWARE}
        outcome = tested(MACHINES[name])
        failed |= bool(outcome["failed"])
        print(f"{name}: {outcome['tests']} tests, {len(outcome['failed'])} failed", *outcome["failed"], sep="\n  ")
        if chosen.output is not None:
            before = json.loads(chosen.output.read_text())["runs"] if chosen.output.is_file() else []
            others = [run for run in before if not about.items() <= run.items()]
            made = {"command": "python tests/faults/machines.py", "runs": [*others, about | outcome]}
            chosen.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    sys.exit(failed)


if __name__ == "__main__":
    main()
