"""A command in two processes that torchrun runs, which can be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def started(*command: str) -> subprocess.Popen[str]:
    script, pipe = Path(sys.executable).parent / "robustdeq", subprocess.PIPE
    arguments = [str(script), *command, "--device", "cpu", "--devices", "2"]
    return subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def await_that(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + 600
    while process.poll() is None and not happened() and time.monotonic() < patience:
        time.sleep(0.05)


def kill_a_worker(process: subprocess.Popen[str], which: int) -> None:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(sorted(map(int, found.stdout.split()))[which], signal.SIGKILL)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its status, its output and its errors."""
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, output, errors


def told_once(process: subprocess.Popen[str], status: int = 2) -> str:
    """The one sentence, and nothing else, with which it ends in a status."""
    found, _, errors = ended(process)
    assert found == status, errors
    assert errors.count("robustdeq: ") == 1, errors
    assert "Traceback" not in errors, errors
    assert "torch/distributed" not in errors, errors
    return errors
