"""The peak memory of a whole process, which libraries that allocate outside tensors count in too."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from robustdeq.study.stopwatch import Side


def peak_memory(make_side: Callable[[], Side]) -> int:
    """The bytes by which running a side once raises the peak resident memory of a fresh process.

    Args:
        make_side: makes the side and its inputs; it must be importable from a module.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_of, (make_side,))


def _peak_of(make_side: Callable[[], Side]) -> int:
    side = make_side()
    gc.collect()
    before = _resident()
    _forget_peak()
    side()
    return _peak() - before


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return pages * resource.getpagesize() if pages else _peak()


def _forget_peak() -> None:
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
