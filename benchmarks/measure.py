"""Fair measurement: interleaved repetitions for time, a fresh process for peak memory."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Side = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one side over its repetitions."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def __str__(self) -> str:
        return f"{1e3 * self.median:.0f} ms ± {self.spread:.0%}"


def interleaved(sides: Mapping[str, Side], repetitions: int) -> dict[str, Timing]:
    """Time all sides in turn, again and again, after one warm-up of each, so that a disturbance meets them alike."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, side in sides.items():
            gc.collect()
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(values) for name, values in seconds.items()}


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
