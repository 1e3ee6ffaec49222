"""The wheel as somebody meets it: installed in an empty environment, outside the repository, and used.

python tests/release.py dist/robustdeq-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FEW = "-n 8 --early 1 --attack.steps 2 --estimators.steps [1] --estimators.dampings [1.0] --estimators.states 1"
EVALUATED = ("evaluate", "monotone-digits-dense", "--data", "digits", *FEW.split())


def installed(wheel: Path, extra: str, folder: Path) -> Path:
    """Where the programs of a new environment are that holds a wheel with an extra, and what that needs."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    programs = folder / "env" / "bin"
    constraints = TESTS.parent / "constraints.txt"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints]
    subprocess.run([*pip, f"{wheel}{extra}"], check=True)
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"{wheel.name}{extra}: {size / 2**20:,.0f} MiB installed in {seconds:.0f} s", flush=True)
    return programs


def run(*command: str | Path, folder: Path, status: int = 0, says: str = "") -> None:
    """Run a command in a folder; it must end with this status and say this."""
    started = time.perf_counter()
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    name = " ".join([Path(command[0]).name, *map(str, command[1:])])
    if done.returncode != status or says not in done.stdout or "Traceback" in done.stdout:
        sys.exit(f"{name} ended with {done.returncode} and said:\n{done.stdout}")
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Try the core alone, then all extras."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(TESTS / "core.py", folder)
        programs = installed(wheel, "", folder)
        robustdeq = programs / "robustdeq"
        run(programs / "python", "core.py", folder=folder, says="worst case")
        run(robustdeq, "--help", folder=folder, says="evaluate")
        run(robustdeq, "models", folder=folder, says="monotone-digits-dense")
        run(robustdeq, *EVALUATED, folder=folder, status=2, says='pip install "robustdeq[report]"')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        robustdeq = installed(wheel, "[all]", folder) / "robustdeq"
        run(robustdeq, "models", folder=folder, says="monotone-digits-dense")
        run(robustdeq, *EVALUATED, "--output", "found", folder=folder, says="worst case")
        run(robustdeq, "report", "found", "-o", "report.html", folder=folder)
        run(robustdeq, "train", "conv-digits-aligned", "--schedule.max_steps", "2", "-o", "trained", folder=folder)


if __name__ == "__main__":
    main()
