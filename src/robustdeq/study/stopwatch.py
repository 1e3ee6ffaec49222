"""Fair measurement: interleaved repetitions for time, live tensors for memory."""

from __future__ import annotations

import gc
import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override

from robustdeq.base.progress import Report, silent

Side = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one side over its repetitions."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)


def interleaved(
    sides: Mapping[str, Side], repetitions: int, report: Report | None = None, warm_up: bool = True
) -> dict[str, Timing]:
    """Time all sides in turn, again and again, so that a disturbance meets them alike.

    Args:
        sides: what is timed, by name.
        repetitions: how often each is.
        report: told how far it is.
        warm_up: begin with a round that is not timed.
    """
    report = report or silent
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rounds = repetitions + warm_up
    for number in range(1 - warm_up, repetitions + 1):
        for i, (name, side) in enumerate(sides.items()):
            done = (number + warm_up - 1 + i / len(sides)) / rounds
            report(done, f"{name}, {number} of {repetitions}" if number else "warm-up")
            gc.collect()
            start = time.perf_counter()
            side()
            if number:
                seconds[name].append(time.perf_counter() - start)
    report(1.0, "done")
    return {name: Timing(values) for name, values in seconds.items()}


class _LiveTensors(TorchDispatchMode):
    """Within it the bytes of all tensors that are made and still alive are counted; those made before do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for given in tree_iter((args, kwargs)):
            if isinstance(given, Tensor):
                self._known[given.untyped_storage()] = True
        made = func(*args, **kwargs)
        for result in tree_iter(made):
            if isinstance(result, Tensor) and (storage := result.untyped_storage()) not in self._known:
                self._known[storage] = True
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _free(self, size: int) -> None:
        self.now -= size


def peak_bytes(side: Side) -> int:
    """The most bytes that tensors made by a side hold at once, on all devices; its inputs do not count."""
    with _LiveTensors() as tensors:
        side()
    return tensors.peak
